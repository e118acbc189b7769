//! The control domain's program: what it starts, and in which order.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use dom0::consoled::Consoles;
use dom0::toolstack::build;
use dom0::toolstack::config::DomainConfig;
use dom0::toolstack::entries;
use dom0::toolstack::hypervisor::Hypervisor;
use dom0::toolstack::xen::Xen;
use dom0::xenstored::{Client, service};
use guest_kernel::{System, println};

guest_kernel::main! {
    async fn main(sys: System) {
        println!("dom0 of {} pages, command line {:?}", sys.boot.pages, sys.boot.cmdline());
        let server = service::start();
        let store = Client::new(&server);
        let config = DomainConfig::parse("name='hello'\nkernel='hello'\nmemory=8\nextra='a b'").unwrap();
        println!("free {:?}", Xen.machine().map(|m| m.free_pages));
        match build::build(&Xen, &config, [1; 16], sys.boot.ramdisk, None) {
            Ok(built) => {
                println!("built {built:?}");
                let consoles = Consoles::default();
                let id = entries::Identity { built: &built, uuid: [1; 16], started: 0 };
                println!("entries {:?}", entries::write(&store, &config, &id));
                println!("console {:?}", consoles.add(built.domain, built.console, built.console_port));
                println!("introduce {:?}", server.borrow_mut().introduce(built.domain.0, built.xenstore.0, built.xenstore_port.0));
                println!("unpause {:?}", Xen.unpause(built.domain));
                guest_kernel::executor::sleep(core::time::Duration::from_secs(3)).await;
                println!("console: {}", alloc::string::String::from_utf8_lossy(&consoles.get(built.domain).unwrap().kept()));
                println!("{:?}", Xen.info(built.domain));
                server.borrow_mut().release(built.domain).unwrap();
                consoles.remove(built.domain);
                entries::remove(&store, built.domain);
                println!("destroy {:?}", Xen.destroy(built.domain));
                guest_kernel::executor::sleep(core::time::Duration::from_secs(1)).await;
                println!("{:?}", Xen.info(built.domain));
                println!("free {:?}", Xen.machine().map(|m| m.free_pages));
            }
            Err(error) => println!("{error}"),
        }
    }
}
