#!/bin/sh
# The first process of the machine: its root is that of the machine around it, read-only, with an overlay above.
# FSM_NFS is a directory there: `job` is what to run, its exit code is left in `code`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
modules=/usr/lib/uml/modules/$(uname -r)
set -e
mount -t proc proc /proc
insmod "$modules/kernel/fs/overlayfs/overlay.ko"
mount -t ext4 /dev/ubda /mnt
cd /mnt
mkdir upper work root export scratch
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount --rbind /dev dev
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run
for link in fd: stdin:/0 stdout:/1 stderr:/2; do ln -sf "/proc/self/fd${link#*:}" "dev/${link%:*}"; done
# No overlay file system can be exported.
mkdir -p export scratch lib/modules
for path in export scratch; do mount --bind "/mnt/$path" "$path"; done
mount -t hostfs -o "$FSM_NFS" hostfs mnt
ln -s "$modules" lib/modules/
mkdir old
pivot_root . old
cd /
hostname nfs
ip link set dev lo up
for module in nfsd nfsv3 nfsv4 veth bridge; do modprobe "$module"; done

# The server
mkdir -p /run/lock /run/rpc_pipefs /var/lib/nfs/v4recovery
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
echo '/export *(rw,no_root_squash,insecure,no_subtree_check,fsid=0)' >/etc/exports
rpcbind -w
exportfs -ra
rpc.nfsd 4
rpc.mountd

set +e
sh /mnt/job
echo $? >/mnt/code
sync
echo o >/proc/sysrq-trigger
read -r _ </dev/zero
