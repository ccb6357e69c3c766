#!/bin/busybox sh
# The first process of the virtual machine. It takes the file tree of the machine outside,
# read-only, as its own root, with private directories for what must be written, and goes on
# with main.sh there.
#
# The initramfs stays reachable as /.vm.

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

. /settings

for module in virtio_pci virtio_console 9pnet_virtio 9p tun; do
    modprobe -q "$module"
done

mkdir /outside /inside
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose outside /outside ||
    { echo 'vm: the file tree outside cannot be mounted'; poweroff -f; }

mount -t tmpfs -o mode=755 root /inside
for path in /outside/* ; do
    name=${path##*/}
    case $name in proc|sys|dev|tmp|run|lost+found) continue ;; esac
    if [ -L "$path" ]; then
        cp -d "$path" "/inside/$name"
    elif [ -d "$path" ]; then
        mkdir "/inside/$name" && mount --bind "$path" "/inside/$name"
    fi
done
mkdir /inside/proc /inside/sys /inside/dev /inside/tmp /inside/run /inside/.vm
chmod 1777 /inside/tmp
[ -d /inside/var/tmp ] && mount -t tmpfs -o mode=1777 tmp /inside/var/tmp

# What the tests need from below a private directory.
for path in $SHARED; do
    case $path in /tmp/*|/run/*|/var/tmp/*) ;; *) continue ;; esac
    mkdir -p "/inside$path" && mount --bind "/outside$path" "/inside$path"
done

for name in proc sys dev; do
    mount --move "/$name" "/inside/$name"
done
mount --bind / /inside/.vm

# The kernel starts this to load a module; its own root has been left behind.
cat > /modprobe <<'END'
#!/.vm/bin/busybox sh
exec /.vm/bin/busybox chroot /.vm /bin/busybox modprobe "$@"
END
chmod 755 /modprobe
echo /.vm/modprobe > /inside/proc/sys/kernel/modprobe

cd /inside || poweroff -f
mount --move . /
exec /bin/busybox chroot . /.vm/bin/busybox sh /.vm/main.sh
