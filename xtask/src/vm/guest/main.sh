# Goes on where init.sh ends, in the tree of the machine outside: runs what the machine was
# booted for, reports, and switches the machine off.

# The program's own commands, not those of busybox's.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
busybox=/.vm/bin/busybox

$busybox mount -t bpf bpf /sys/fs/bpf
$busybox mkdir -p /dev/pts /dev/shm
$busybox mount -t devpts devpts /dev/pts
$busybox mount -t tmpfs -o mode=1777 shm /dev/shm
$busybox ln -sf /proc/self/fd /dev/fd
$busybox ip link set lo up

# The ports to the machine outside, by name.
for port in /sys/class/virtio-ports/*; do
    device=/dev/${port##*/}
    case $($busybox cat "$port/name") in
        output) output=$device ;;
        status) status=$device ;;
    esac
done

$busybox sh /.vm/run.sh < /dev/null > "$output" 2>&1
echo $? > "$status"
$busybox sync
$busybox poweroff -f
