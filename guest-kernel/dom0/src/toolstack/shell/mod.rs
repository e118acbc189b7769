//! The shell: `xl`'s commands, with `xl`'s columns, on dom0's console. A leading `xl` may be left out. Each
//! command takes `--json` and then answers with one JSON value.

pub mod commands;
pub mod devices;
pub mod editor;
pub mod help;
pub mod reports;
pub mod session;

pub use session::Notices;

use super::hypervisor::Hypervisor;
use super::manager::Manager;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Value, json};
use shared_abi::{DomId, Errno};

/// What a command has to say.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// The same for programs.
    pub json: Value,
    /// The domain whose console is to be attached next.
    pub attach: Option<DomId>,
}

impl Answer {
    fn new(text: impl Into<String>, json: Value) -> Answer {
        Answer { text: text.into(), json, attach: None }
    }

    /// Nothing to say but that it is done.
    fn done() -> Answer {
        Answer::new("", json!({ "ok": true }))
    }
}

/// What a command ends with; an error is text for the user.
pub type Outcome = Result<Answer, String>;

/// The commands over one toolstack.
pub struct Shell<H: Hypervisor> {
    /// The toolstack.
    pub manager: Rc<Manager<H>>,
    /// Shows at once what a command that waits has to say before its end.
    say: fn(&str),
}

/// `xl`'s own options, which change nothing here.
const GLOBAL: [&str; 6] = ["-v", "-vvv", "-f", "-t", "-T", "-N"];

/// A command line taken apart.
struct Args<'a> {
    command: &'a str,
    json: bool,
    options: Vec<(char, Option<&'a str>)>,
    words: Vec<&'a str>,
}

impl Args<'_> {
    fn has(&self, option: char) -> bool {
        self.options.iter().any(|(given, _)| *given == option)
    }

    fn value(&self, option: char) -> Option<&str> {
        self.options.iter().rev().find(|(given, _)| *given == option).and_then(|(_, value)| *value)
    }

    fn word(&self, index: usize) -> &str {
        self.words.get(index).copied().unwrap_or("")
    }
}

/// Splits a line into words; quotes keep blanks.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

/// An error as it is printed.
fn told(error: &str, json: bool) -> String {
    let error = error.trim_end();
    if json { format!("{}\n", json!({ "error": error })) } else { format!("{error}\n") }
}

fn errno(what: &str) -> impl Fn(Errno) -> String {
    let what = what.to_string();
    move |errno| format!("{what}: {}", errno.name())
}

impl<H: Hypervisor> Shell<H> {
    /// The commands over `manager`.
    pub fn new(manager: Rc<Manager<H>>, say: fn(&str)) -> Shell<H> {
        Shell { manager, say }
    }

    /// Runs one line. The text printed is the second value; the first tells whether the command succeeded.
    pub async fn run(&self, line: &str) -> (bool, String, Option<DomId>) {
        let words = match words(line) {
            Ok(words) => words,
            Err(error) => return (false, told(&error, line.contains("--json")), None),
        };
        let json = words.iter().any(|word| word == "--json");
        let mut words: Vec<&str> =
            words.iter().map(String::as_str).filter(|word| *word != "--json").collect();
        if words.first() == Some(&"xl") {
            // Options before the command are about xl's own messages and locks.
            let options = words[1..].iter().take_while(|word| GLOBAL.contains(word)).count();
            words.drain(1..=options);
            words[0] = "help"; // `xl` alone
            if words.len() > 1 {
                words.remove(0);
            }
        }
        if words.is_empty() {
            return (true, String::new(), None);
        }
        match self.dispatch(&words, json).await {
            Ok(answer) if json => (true, format!("{}\n", answer.json), answer.attach),
            Ok(answer) => (true, answer.text, answer.attach),
            Err(error) => (false, told(&error, json), None),
        }
    }

    async fn dispatch(&self, words: &[&str], json: bool) -> Outcome {
        let Some(command) = help::find(words[0]) else {
            return Err(format!(
                "xl: unknown command \"{}\"{}; try \"help\"",
                words[0],
                help::near(words[0])
            ));
        };
        if words[1..].iter().any(|word| ["-h", "--help"].contains(word)) {
            return help::help(Some(command.name));
        }
        let args = Args { json, ..parse(command, words)? };
        match command.name {
            "create" => self.create(&args).await,
            "list" => self.list(&args),
            "info" => self.info(&args),
            "destroy" => self.destroy(&args).await,
            "shutdown" => self.shutdown(&args, "poweroff").await,
            "reboot" => self.shutdown(&args, "reboot").await,
            "pause" => self.pause(&args),
            "unpause" => self.unpause(&args),
            "console" => self.console(&args),
            "dmesg" => self.dmesg(&args),
            "domid" => self.domid(&args),
            "domname" => self.domname(&args),
            "uptime" => self.uptime(&args),
            "vcpu-list" => self.vcpu_list(&args),
            "vcpu-set" => self.vcpu_set(&args),
            "mem-set" => self.mem_set(&args),
            "sysrq" => self.sysrq(&args),
            "vcpu-pin" => self.vcpu_pin(&args),
            "mem-max" => self.mem_max(&args),
            "rename" => self.rename(&args),
            "config-update" => self.config_update(&args),
            "trigger" => self.trigger(&args),
            "debug-keys" => self.debug_keys(&args),
            "top" => self.top(&args).await,
            "vm-list" => self.vm_list(),
            "sched-credit2" => self.sched_credit2(&args),
            "block-list" => self.block_list(&args),
            "block-attach" => self.block_attach(&args).await,
            "block-detach" => self.block_detach(&args).await,
            "network-list" => self.network_list(&args),
            "network-attach" => self.network_attach(&args).await,
            "network-detach" => self.network_detach(&args).await,
            "backend-restart" => self.backend_restart(&args).await,
            _ => help::help(args.words.first().copied()),
        }
    }

    /// The domain a user names, or xl's complaint.
    fn domain(&self, text: &str) -> Result<DomId, String> {
        self.manager.find(text).ok_or_else(|| format!("{text} is an invalid domain identifier (rc=-6)"))
    }

    fn shown_name(&self, domain: DomId) -> String {
        self.manager.name(domain).unwrap_or_else(|| "(null)".into())
    }

    /// What the word under the cursor may become, given the line up to the cursor.
    pub fn candidates(&self, line: &str) -> Vec<String> {
        let mut before: Vec<&str> = line.split_whitespace().collect();
        if !line.ends_with(char::is_whitespace) {
            before.pop();
        }
        if before.first() == Some(&"xl") {
            before.remove(0);
        }
        match before.first() {
            None | Some(&"help") => help::COMMANDS.iter().map(|command| command.name.to_string()).collect(),
            Some(&"create" | &"config-update") => {
                let files = self.manager.files.list().into_iter().filter(|path| path.ends_with(".cfg"));
                files.map(String::from).collect()
            }
            Some(_) => {
                let domains = self.manager.hypervisor.list().unwrap_or_default();
                domains.iter().filter_map(|info| self.manager.name(info.domain)).collect()
            }
        }
    }
}

/// Takes options out of the words and checks both against the command's table entry.
fn parse<'a>(command: &help::Command, words: &[&'a str]) -> Result<Args<'a>, String> {
    let mut args = Args { command: command.name, json: false, options: Vec::new(), words: Vec::new() };
    let mut rest = words[1..].iter().copied();
    while let Some(word) = rest.next() {
        if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let known = command.options.iter().find(|option| option.long == name);
            let option =
                known.ok_or_else(|| format!("option `--{name}' not supported.\n\n{}", command.usage()))?;
            let value = if option.takes_value {
                let needs = || format!("option `--{name}' needs a value.\n\n{}", command.usage());
                Some(value.or_else(|| rest.next()).ok_or_else(needs)?)
            } else {
                None
            };
            args.options.push((option.short, value));
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            for (at, short) in shorts.char_indices() {
                let known = command.options.iter().find(|option| option.short == short);
                let option =
                    known.ok_or_else(|| format!("option `{short}' not supported.\n\n{}", command.usage()))?;
                if option.takes_value {
                    let attached = &shorts[at + short.len_utf8()..];
                    let value = if attached.is_empty() { rest.next() } else { Some(attached) };
                    let value = value
                        .ok_or_else(|| format!("option `{short}' needs a value.\n\n{}", command.usage()))?;
                    args.options.push((short, Some(value)));
                    break;
                }
                args.options.push((short, None));
            }
        } else {
            args.words.push(word);
        }
    }
    // All domains, or a file, may be named by an option.
    let named = args.has('a') || args.value('f').is_some();
    if args.words.len() < command.least && !(named && command.least == 1) {
        let plural = if command.least > 1 { "s" } else { "" };
        let (name, least) = (command.name, command.least);
        return Err(format!(
            "'xl {name}' requires at least {least} argument{plural}.\n\n{}",
            command.usage()
        ));
    }
    Ok(args)
}
