# What a service manager does before anything else, then scripts of the test, one at a time: a line in base64 comes in;
# the exit status, the length of the output, and the output go out.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
ip link set lo up
hostname emulated
modules=/lib/modules/$(uname -r)
# Flushed, as the index of an installed kernel is: a power cut may follow.
[ -e "$modules/modules.dep" ] || { depmod && sync; }
# A session has a group of its own, as under systemd.
mkdir -p /sys/fs/cgroup/user.slice/session-1.scope
exec 3<>/dev/vport0p1
echo ready >&3
while read -r line <&3; do
    echo "$line" | base64 -d >/run/script
    (
        echo 0 >/sys/fs/cgroup/user.slice/session-1.scope/cgroup.procs
        exec 3>&-
        cd /srv && exec timeout -k 5 240 bash /run/script
    ) >/run/output 2>&1 </dev/null
    status=$?
    { echo "$status $(stat -c %s /run/output)"; cat /run/output; } >&3
done
