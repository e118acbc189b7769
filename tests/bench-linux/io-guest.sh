# What the first process of Linux guests does for `cargo xtask bench --io`. On the kernel's command line:
#   pvio.address=A   the guest's address
#   pvio.peer=A      whom it measures against; without it the guest is the peer
#   pvio.rows=a,b,c  arguments to pvio (commas become spaces)
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
word() { tr ' ' '\n' < /proc/cmdline | sed -n "s/^pvio.$1=//p"; }
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
ip address add $(word address)/24 dev eth0
ip link set eth0 up
PEER=$(word peer)
[ -z "$PEER" ] && exec pvio serve
until [ -b /dev/xvda ]; do sleep 0.1; done
H=/sys/hypervisor/version
echo "PI kernel $(uname -r)"
echo "PI hypervisor $(cat $H/major).$(cat $H/minor)$(cat $H/extra)"
# a hypervisor clears free memory while it idles, which it does when a disk is waited for
sleep 2
pvio /dev/xvda $PEER $(word rows | tr , ' ')
echo "PI exit $?"
poweroff -f
