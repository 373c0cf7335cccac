#!/bin/busybox sh
# First program of an emulated host: drivers, a root that survives a reboot, control groups of version 2 alone, and a
# program that runs the scripts which the test sends.
b=/bin/busybox
$b mount -t devtmpfs -o mode=0755 dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in virtio_ring virtio virtio_mmio virtio_blk virtio_console virtio-rng overlay; do
    $b insmod /modules/$module.ko 2>/dev/null
done
find() {
    for drive in /sys/block/vd*; do
        if [ "$($b cat $drive/serial)" = "$1" ]; then
            echo /dev/${drive##*/}
            return
        fi
    done
}
until [ -n "$(find base)" ] && [ -n "$(find disk)" ] && [ -c /dev/vport0p1 ]; do
    $b usleep 10000
done
$b mount -t ext4 -o ro,noatime "$(find base)" /base
$b mount -t ext4 -o noatime "$(find disk)" /layer
$b mkdir -p /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/base,upperdir=/layer/upper,workdir=/layer/work root /new
$b mkdir -p /new/dev /new/proc /new/sys /new/run /new/tmp /new/srv
# A house is on a real file system, not on two layers of one.
$b mount --bind /layer/srv /new/srv
$b mount --move /dev /new/dev
$b mount --move /proc /new/proc
$b mount --move /sys /new/sys
exec $b switch_root /new /bin/bash /srv/first
