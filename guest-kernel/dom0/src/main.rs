//! The control domain's program: what it starts, and in which order.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use dom0::backends::Backends;
use dom0::consoled::Consoles;
use dom0::hardware;
use dom0::toolstack::archive::Archive;
use dom0::toolstack::deaths;
use dom0::toolstack::manager::Manager;
use dom0::toolstack::shell::{Notices, Shell, session};
use dom0::toolstack::xen::Xen;
use dom0::xenstored::service;
use guest_kernel::executor::spawn;
use guest_kernel::{System, console, println};

guest_kernel::main! {
    async fn main(sys: System) {
        println!("Oxen dom0, {} MiB", sys.boot.pages >> 8);
        let store = service::start();
        let hardware = hardware::start().await;
        let backends =
            Backends::new(service::connect(&store), hardware.volumes.clone(), hardware.bridge.clone());
        spawn(async move {
            if let Err(errno) = backends.run().await {
                println!("no backends: {}", errno.name());
            }
        });
        let consoles = Rc::new(Consoles::default());
        let files = match Archive::open(sys.boot.ramdisk) {
            Ok(files) => files,
            Err((files, at)) => {
                println!("dom0's archive of files is damaged at byte {at}");
                files
            }
        };
        let manager = Rc::new(Manager::new(Xen, &store, Rc::new(files), consoles.clone()));
        spawn(deaths::tell_store(store.clone()));
        let notices = Rc::new(Notices::default());
        let (attending, told) = (manager.clone(), notices.clone());
        spawn(async move { attending.attend(|line| told.show(line)).await });
        for (file, result) in manager.autostart().await {
            match result {
                Ok(domain) => println!("{file}: domain {}", domain.0),
                Err(error) => println!("{error}"),
            }
        }
        session::run(&Shell::new(manager, |text| console::write(text.as_bytes())), &consoles, &notices).await;
    }
}
