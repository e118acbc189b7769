//! A hundred guests: configurations of `hello` whose networks do not collide.

use crate::build::ramdisk::Entry;

/// How many.
pub const COUNT: u8 = 100;

/// `/etc/xen/helloN.cfg` for each N below [`COUNT`], at 10.0.4.N. The network is larger than QEMU's: these guests
/// answer others of the machine only, such as `/etc/xen/test/client-of-many.cfg`.
pub fn configs() -> Vec<Entry> {
    let config = |n: u8| {
        format!(
            "name = \"hello{n}\"\nkernel = \"/boot/hello\"\nmemory = 8\n\
             vif = [ 'mac=00:16:3e:00:02:{n:02x},bridge=xenbr0' ]\nextra = \"ip=10.0.4.{n}/16 gw=10.0.2.2\"\n"
        )
    };
    let entry = |n: u8| Entry { path: format!("etc/xen/hello{n}.cfg"), data: config(n).into() };
    (0..COUNT).map(entry).collect()
}
