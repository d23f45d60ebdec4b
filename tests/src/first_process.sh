# The first process of new namespaces: becomes systemd in a root directory of which nothing of the machine can be
# written but the folder of one test. systemd as it is installed would clean /tmp, set kernel variables, make devices:
# none of its own units is there, and what it could write to lies in memory or is read-only.
# Usage: sh first_process.sh FOLDER
set -e
folder=$1
root=$folder/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc/systemd/system run tmp var/log var/tmp dev proc sys old
chmod 1777 tmp var/tmp
for link in bin sbin lib lib64; do ln -s usr/$link $link; done
mount --bind /usr usr
mount -o remount,bind,ro usr
for units in system system-generators; do mount -t tmpfs -o mode=755 tmpfs usr/lib/systemd/$units; done
for file in passwd group nsswitch.conf ld.so.cache; do [ ! -e /etc/$file ] || cp /etc/$file etc/; done
echo 0123456789abcdef0123456789abcdef >etc/machine-id
cp "$folder"/units/* etc/systemd/system/
# systemd mounts what is no mount point yet, and would take the machine's own /dev.
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/systemd
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p ".$folder"
mount --bind "$folder" ".$folder"
pivot_root . old
umount -l /old
rmdir /old
# Nothing of the machine's is left to be written.
for path in /usr /proc/sys /sys; do ! test -w $path || { echo "$path can be written" >&2; exit 1; }; done
: >"$folder/built"
exec env -i container=mvedsua PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --system --unit=first.target \
	--log-target=console --show-status=no
