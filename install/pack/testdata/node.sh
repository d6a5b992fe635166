#!/usr/bin/env bash
# Installs and removes $1/podwall.deb on an overlay of this machine's files, in a
# mount namespace that the caller made. A failed expectation ends it with 1.
set -euo pipefail

deb=$1/podwall.deb
work=$(mktemp -d "$1/work.XXXX")
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
root=$work/root
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
# A database of its own: to read that of a whole system takes seconds each time.
mount -t tmpfs tmpfs "$root/var/lib/dpkg"
mkdir "$root"/var/lib/dpkg/{info,updates,triggers}
touch "$root/var/lib/dpkg/status"
mkdir -p "$root/var/lib/cni"
mount -t tmpfs tmpfs "$root/var/lib/cni"
mount --bind /dev "$root/dev"
mount --bind /proc "$root/proc"
cp "$deb" "$root/tmp/podwall.deb"

on() { chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
expect() {
	echo "expect: $*"
	"$@" || { echo "FAILED"; exit 1; }
}
has() { on grep -q podwall "$1"; }
not() { ! "$@"; }

rm -rf "$root/etc/cni/net.d" "$root/opt/cni"
mkdir -p "$root/etc/cni/net.d" "$root/var/lib/cni/results" "$root/run/netns"
network=/etc/cni/net.d/10-pods.conflist
printf '{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}\n' >"$root$network"
cp "$root$network" "$work/before"

on dpkg --force-unsafe-io --install /tmp/podwall.deb
expect on dpkg --verify podwall
expect on test -x /usr/bin/podwalld
expect on podwall-install install
expect has "$network"
expect on test -x /opt/cni/bin/podwall
mkdir -p "$root/var/lib/podwall"

# Somebody's pod has podwall in its chain.
touch "$root/run/netns/web"
printf '{"kind": "cniCacheV1", "containerId": "web", "config": "%s", "ifName": "eth0", "networkName": "pods", "netns": "/run/netns/web"}' \
	"$(base64 -w0 "$root$network")" >"$root/var/lib/cni/results/pods-web-eth0"

# An upgrade changes nothing but the binaries.
on dpkg --force-unsafe-io --install /tmp/podwall.deb
expect has "$network"

# A network that nobody can edit keeps the package in place.
printf '{"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": "podwall"}]}\n' >"$root/etc/cni/net.d/20-odd.conflist"
rm "$root/run/netns/web"
expect not on dpkg --remove podwall
expect on test -x /opt/cni/bin/podwall
expect on test -x /usr/bin/podwalld
rm "$root/etc/cni/net.d/20-odd.conflist"
touch "$root/run/netns/web"
on podwall-install install

on dpkg --remove podwall
expect cmp "$root$network" "$work/before"
expect on test -x /opt/cni/bin/podwall # the pod's DEL needs it
expect not on test -e /usr/bin/podwalld
expect on test -d /var/lib/podwall

on dpkg --purge podwall
expect not on test -e /var/lib/podwall
expect not on test -e /etc/default/podwall

rm "$root/run/netns/web"
on dpkg --force-unsafe-io --install /tmp/podwall.deb
on podwall-install install
on dpkg --purge podwall
expect cmp "$root$network" "$work/before"
expect not on test -e /opt/cni/bin/podwall
