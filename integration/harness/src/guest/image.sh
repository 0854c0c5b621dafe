#!/bin/sh
# image.sh FOLDER: makes what a guest boots from, out of Debian's packages: vmlinuz, initrd, root.ext4.
#
# Nothing is mounted and no device is made, so it needs root only where mmdebstrap does. The kernel is
# the full one: that of clouds has no scsi_dh_alua.
set -eu
folder=$1
here=$(dirname "$(readlink -f "$0")")
work=$folder/making
rm -rf "$work"
mkdir -p "$work/root" "$work/initrd/bin" "$work/initrd/modules"
cd "$work"

. /etc/os-release
mmdebstrap --quiet --variant=minbase \
    --include=open-iscsi,multipath-tools,fio,kmod,lsscsi,sg3-utils,e2fsprogs,iproute2 \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$VERSION_CODENAME" root.tar
tar --extract --file=root.tar --directory=root --exclude='./dev/*'
rm root.tar

# The newest kernel, without the package that would install it here.
kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
apt-get --quiet --quiet download "$kernel"
dpkg-deb --extract "$kernel"_*.deb kernel
release=${kernel#linux-image-}
modules=root/lib/modules/$release
mkdir -p "$(dirname "$modules")"
mv "kernel/lib/modules/$release" "$modules"
# What no virtual machine has.
rm -rf "$modules"/kernel/sound "$modules"/kernel/drivers/gpu "$modules"/kernel/drivers/media \
    "$modules"/kernel/drivers/net/wireless "$modules"/kernel/drivers/net/ethernet
depmod --basedir root "$release"
cp "kernel/boot/vmlinuz-$release" vmlinuz

# The modules that the root comes up with, in the order in which they are loaded.
count=100
for module in virtio_pci virtio_blk virtio_console virtio_net ext4 overlay; do
    modprobe --dirname "$work/root" --set-version "$release" --show-depends "$module" |
        awk '$1 == "insmod" { print $2 }' > needed
    while read -r file; do
        name=$(basename "$file")
        ls initrd/modules/*-"$name" > /dev/null 2>&1 && continue
        cp "$file" "initrd/modules/$count-$name"
        count=$((count + 1))
    done < needed
done
cp "$(command -v busybox)" initrd/bin/busybox
cp "$here/first.sh" initrd/init
cp "$here/second.sh" root/sbin/guest
chmod 755 initrd/init root/sbin/guest
(cd initrd && find . | cpio --create --format=newc --quiet) > initrd.cpio

truncate --size=1G root.ext4
mke2fs -q -t ext4 -O ^has_journal -d root root.ext4
mv vmlinuz initrd.cpio root.ext4 "$folder"
cd "$folder"
rm -rf "$work"
