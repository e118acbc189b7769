# What Linux's first process does for `cargo xtask bench --linux`. On the kernel's command line:
#   pvb.args=a,b,c   arguments to pvbench (commas become spaces)
B=/bin/busybox
$B mkdir -p /tmp
/bin/pvbench boot
$B mount -t proc p /proc
$B mount -t sysfs s /sys
$B mount -t devtmpfs d /dev 2>/dev/null
$B mount -t tmpfs t /tmp
$B --install -s /bin
export PATH=/bin
A=
for w in $(cat /proc/cmdline); do
  case $w in
    pvb.args=*) A=$(echo "${w#pvb.args=}" | tr , ' ') ;;
  esac
done
echo "PI kernel $(uname -r)"
echo "PI hypervisor $(cat /sys/hypervisor/version/major 2>/dev/null).$(cat /sys/hypervisor/version/minor 2>/dev/null)$(cat /sys/hypervisor/version/extra 2>/dev/null)"
# a hypervisor clears free memory while it idles: not in the rows that sleep
sleep 2
/bin/pvbench $A
echo "PI exit $?"
poweroff -f
