#!/bin/busybox sh
# The first process of a guest: its root is read-only, with memory laid over it.
B=/bin/busybox
for folder in proc sys dev below over root; do $B mkdir -p /$folder; done
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for module in /modules/*.ko*; do $B insmod "$module"; done
$B mount -t ext4 -o ro /dev/vda /below || $B poweroff -f
$B mount -t tmpfs -o size=80% over /over
$B mkdir /over/upper /over/work
$B mount -t overlay -o lowerdir=/below,upperdir=/over/upper,workdir=/over/work overlay /root
for folder in proc sys dev; do $B mount --move /$folder /root/$folder; done
exec $B switch_root /root /sbin/guest
