#!/bin/sh
# A real SLURM with this machine as its only node, for tests/test_cluster.py. As root, on Debian:
#
#     apt-get install slurmctld slurmd munge
#     export SLURM_CONF=$(sh tests/one_node_slurm.sh)
#     pytest tests/test_cluster.py -m slow -k slurm
#     kill $(cat "$(dirname "$SLURM_CONF")"/*.pid)
set -eu
place=$(mktemp -d)
host=$(hostname -s)
mkdir "$place/state" "$place/spool"
cat > "$place/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=3000 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$place/slurm.conf"
if ! pgrep -x munged > /dev/null; then
    mkdir -p /run/munge
    chown munge: /run/munge
    runuser -u munge -- munged >&2
fi
slurmctld >&2
sleep 1
slurmd >&2
sleep 2
sinfo >&2
echo "$SLURM_CONF"
