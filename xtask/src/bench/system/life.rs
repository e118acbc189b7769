//! The lives that are measured, from `xl create` to `xl destroy`.

use anyhow::Result;

use super::shell::{self, Shell, cpu_time};
use crate::bench::Figure;

/// The guest that finds no network and powers off.
#[derive(Clone, Copy, Default)]
pub struct Alone {
    create: u64,
    run: u64,
    destroy: u64,
}

impl Alone {
    /// The median of `times` lives, one after the other.
    pub fn median(shell: &mut Shell<'_>, times: usize) -> Result<Self> {
        let lives = (0..times).map(|_| Self::once(shell)).collect::<Result<Vec<_>>>()?;
        let of = |figure: fn(&Self) -> u64| median(lives.iter().map(figure).collect());
        Ok(Self { create: of(|l| l.create), run: of(|l| l.run), destroy: of(|l| l.destroy) })
    }

    fn once(shell: &mut Shell<'_>) -> Result<Self> {
        const CREATE: &str = "xl create /etc/xen/alone.cfg";
        const DESTROY: &str = "xl destroy alone";
        shell.rest();
        let create = shell.cost(&[CREATE], |shell| shell.begin(CREATE))?;
        shell.rest();
        let run = cpu_time(&shell.list()?, "alone")?;
        let destroy = shell.cost(&[DESTROY], |shell| shell.begin(DESTROY))?;
        Ok(Self { create, run, destroy })
    }

    /// Its rows beside `others` guests.
    pub fn figures(self, others: usize) -> Vec<Figure> {
        let mut figures = vec![figure("xl create, a guest of 8 MiB, in dom0", others, self.create)];
        if others == 0 {
            figures.push(figure("that guest's run, start to power-off", others, self.run));
        }
        figures.push(figure("xl destroy of it, in dom0", others, self.destroy));
        figures
    }
}

/// `web`, until it has answered one request of another guest's.
#[derive(Clone, Copy, Default)]
pub struct Web {
    answered: u64,
    destroy: u64,
}

impl Web {
    /// As [`Alone::median`].
    pub fn median(shell: &mut Shell<'_>, times: usize) -> Result<Self> {
        let lives = (0..times).map(|_| Self::once(shell)).collect::<Result<Vec<_>>>()?;
        let of = |figure: fn(&Self) -> u64| median(lives.iter().map(figure).collect());
        Ok(Self { answered: of(|l| l.answered), destroy: of(|l| l.destroy) })
    }

    fn once(shell: &mut Shell<'_>) -> Result<Self> {
        const CREATE: &str = "xl create /etc/xen/web.cfg";
        const REQUEST: &str = "xl shutdown client";
        const DESTROY: &str = "xl destroy web";
        shell.run("xl create /etc/xen/client.cfg")?;
        shell.rest();
        let before = shell::others(&shell.list()?)?;
        let dom0 = shell.cost(&[CREATE, REQUEST], |shell| {
            shell.begin(CREATE)?;
            shell.rest();
            shell.begin(REQUEST)?;
            shell.powered_off("client")
        })?;
        shell.rest();
        let after = shell.list()?;
        let answered = dom0 + cpu_time(&after, "web")? + shell::others(&after)? - before;
        let destroy = shell.cost(&[DESTROY], |shell| shell.begin(DESTROY))?;
        shell.run("xl destroy client")?;
        Ok(Self { answered, destroy })
    }

    /// Its rows beside `others` guests.
    pub fn figures(self, others: usize) -> Vec<Figure> {
        vec![
            figure("xl create of web to its first answer", others, self.answered),
            figure("xl destroy of web, in dom0", others, self.destroy),
        ]
    }
}

fn figure(what: &str, others: usize, value: u64) -> Figure {
    let name = match others {
        0 => what.into(),
        1 => format!("{what}, beside 1 other"),
        _ => format!("{what}, beside {others} others"),
    };
    Figure { name, unit: "instructions", value }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_an_outlier() {
        assert_eq!(median(vec![10, 9_000_000, 11, 12, 1]), 11);
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let mut names: Vec<_> =
            [0, 1, 100].iter().flat_map(|&n| Web::default().figures(n)).map(|f| f.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6);
        assert!(names.iter().any(|name| name.ends_with("beside 1 other")), "{names:?}");
    }
}
