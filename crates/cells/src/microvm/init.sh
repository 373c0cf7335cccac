#!/bin/busybox sh
# First program of a guest: drivers, the root out of its layers, then the house's own first process.
b=/bin/busybox
$b mount -t devtmpfs -o mode=0755 dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
# Only where the channel needs it: everybody in the guest could use it.
channel=
if $b grep -q abbey.channel= /proc/cmdline; then
    channel="vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport"
fi
for module in virtio_ring virtio virtio_mmio failover net_failover virtio_net virtio_blk virtio_console virtio-rng overlay fuse tun $channel; do
    $b insmod /modules/$module.ko 2>/dev/null
done
# The nodes appear some time after their drivers. A monitor that gives drives no serial numbers says in which
# order they are.
order=$($b sed -n 's/.*abbey\.drives=\([a-z,]*\).*/\1/p' /proc/cmdline)
find() {
    if [ -n "$order" ]; then
        letters=abcdef
        for name in $(echo "$order" | $b tr , ' '); do
            node=/dev/vd${letters%"${letters#?}"}
            letters=${letters#?}
            if [ "$name" = "$1" ] && [ -b "$node" ]; then
                echo "$node"
            fi
        done
        return
    fi
    for drive in /sys/block/vd*; do
        if [ "$($b cat $drive/serial)" = "$1" ]; then
            echo /dev/${drive##*/}
            return
        fi
    done
}
tries=0
until [ -n "$(find tools)" ] || [ $tries -ge 500 ]; do
    $b usleep 10000
    tries=$((tries + 1))
done
fail() {
    echo "abbey: the guest cannot start: $1"
    $b reboot -f
}
$b mount -t ext4 -o ro,noatime "$(find base)" /base || fail "its base cannot be mounted"
scratch=$(find scratch)
if [ -n "$scratch" ]; then
    $b mount -t ext4 -o noatime,nodev "$scratch" /layer || fail "its scratch drive cannot be mounted"
else
    $b mount -t tmpfs -o size=75% layer /layer
fi
$b mkdir -p /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/base,upperdir=/layer/upper,workdir=/layer/work root /new || fail "its root cannot be put together"
$b mkdir -p /new/abbey /new/dev /new/proc /new/sys
$b mount -t ext4 -o ro,noatime "$(find tools)" /new/abbey || fail "its tools cannot be mounted"
$b mount --move /dev /new/dev
$b mount --move /proc /new/proc
$b mount --move /sys /new/sys
exec $b switch_root /new /abbey/lib/ld.so --library-path /abbey/lib /abbey/abbey role guest
