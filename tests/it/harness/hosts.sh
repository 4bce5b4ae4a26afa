#!/usr/bin/env bash
# Machines that are reached over SSH only, made of namespaces on this one: each has its own address behind a private
# switch, its own processes, mounts and name, its own sshd and its own dockerd. Wants root.
#
#   hosts.sh DIR PREFIX NET up N OWNER    make hosts 1..N; they go when process OWNER does, whatever ends it
#   hosts.sh DIR PREFIX NET down          end and remove everything
#   hosts.sh DIR PREFIX NET cut|heal I    the link of host I
#   hosts.sh DIR PREFIX NET hide|show I   whether host I answers this machine; the other hosts it always does
#   hosts.sh DIR PREFIX NET in I CMD...   run CMD on host I, without SSH
#   hosts.sh DIR PREFIX NET sshd I stop|start|drop
#   hosts.sh DIR PREFIX NET dockerd I stop|start
#   hosts.sh DIR PREFIX NET freeze|thaw I the engine stops where it is (SIGSTOP), and goes on
#   hosts.sh DIR PREFIX NET wipe I        its engine starts anew with nothing, as after a new installation
#
# What the SSH servers are to be configured with before all else is in HOSTS_SSHD_CONFIG.
# NET are the first three numbers of a free /24; host I is NET.(10+I). DIR is on a file system that overlay2 can use.
set -euo pipefail
DIR=$1 PREFIX=$2 NET=$3 VERB=$4
shift 4
SWITCH=${PREFIX}sw UPLINK=${PREFIX}up

runs() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
in_host() { local host=$1; shift; nsenter -t "$(cat "$DIR/h$host/init.pid")" -n -m -u -p -- "$@"; }

switch_up() {
  ip netns add "$SWITCH"
  ip -n "$SWITCH" link add br0 type bridge
  ip -n "$SWITCH" link set br0 up
  ip link add "$UPLINK" type veth peer name up0 netns "$SWITCH"
  ip -n "$SWITCH" link set up0 master br0 up
  ip addr add "$NET.1/24" dev "$UPLINK"
  ip link set "$UPLINK" up
}

# The first process of a host: starts what its two files ask for.
init() {
  local host=$1 dir=$DIR/h$1
  hostname "$PREFIX-host-$host"
  mount -t tmpfs -o mode=755,size=64m tmpfs /run
  mkdir -p /run/sshd /run/lock /run/cgroups
  # A fresh sysfs shows the host's own links, but hides the mounted cgroups.
  mount --rbind /sys/fs/cgroup /run/cgroups
  mount -t sysfs sysfs /sys
  mount --rbind /run/cgroups /sys/fs/cgroup
  umount -l /run/cgroups
  trap : CHLD
  exec </dev/null
  touch "$dir/start-sshd" "$dir/start-dockerd"
  while :; do
    if [ -e "$dir/start-sshd" ]; then
      rm -f "$dir/start-sshd"
      /usr/sbin/sshd -f "$dir/sshd_config" -E "$dir/sshd.log" || true
    fi
    if [ -e "$dir/start-dockerd" ]; then
      rm -f "$dir/start-dockerd"
      # The second socket is for the tests themselves.
      dockerd --data-root "$dir/docker" --exec-root /run/docker --pidfile /run/docker.pid \
        -H unix:///run/docker.sock -H "unix://$dir/docker.sock" --bip "172.30.$host.1/24" \
        --insecure-registry "$NET.0/24" --cgroup-parent "/$PREFIX/h$host" >>"$dir/dockerd.log" 2>&1 &
    fi
    sleep 0.1 & wait $! || true
  done
}

boot() {
  local host=$1 dir=$DIR/h$1 netns=${PREFIX}h$1 address=$NET.$((10 + $1))
  mkdir -p "$dir/docker"
  [ -f "$dir/host_key" ] || ssh-keygen -q -t ed25519 -N '' -C "$PREFIX-host-$host" -f "$dir/host_key"
  cat >"$dir/sshd_config" <<CONFIG
${HOSTS_SSHD_CONFIG:-}
Port 22
ListenAddress $address
HostKey $dir/host_key
AuthorizedKeysFile $DIR/id_ed25519.pub
PidFile /run/sshd.pid
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
# The shell then does not read what this machine has for people who log in.
MaxSessions 10
# Not the one of this machine, whose shell reads who knows what at every session.
SetEnv HOME=/run
LogLevel VERBOSE
CONFIG
  ip netns add "$netns"
  ip -n "$netns" link set lo up
  ip link add eth0 netns "$netns" type veth peer name "p$host" netns "$SWITCH"
  ip -n "$SWITCH" link set "p$host" master br0 up
  ip -n "$netns" addr add "$address/24" dev eth0
  ip -n "$netns" link set eth0 up
  ip -n "$netns" route add default via "$NET.1"
  # Looked up ahead: done below, it would pass for the first process of the host.
  local script
  script=$(readlink -f "$0")
  # Not `ip netns exec`, whose own /sys has no cgroups.
  setsid nsenter --net="/run/netns/$netns" \
    unshare --mount --uts --pid --fork --mount-proc --kill-child \
    bash "$script" "$DIR" "$PREFIX" "$NET" init "$host" >"$dir/init.log" 2>&1 </dev/null &
  local outer=$!
  echo "$outer" >"$dir/outer.pid"
  for _ in $(seq 100); do
    pgrep -P "$outer" | head -1 >"$dir/init.pid" && [ -s "$dir/init.pid" ] && break
    sleep 0.05
  done
}

ready() {
  local dir=$DIR/h$1
  for _ in $(seq 300); do
    [ -S "$dir/docker.sock" ] && in_host "$1" test -S /run/docker.sock -a -s /run/sshd.pid && return 0
    sleep 0.1
  done
  echo "host $1 is not ready" >&2
  tail -n 5 "$dir/init.log" "$dir/sshd.log" "$dir/dockerd.log" >&2
  return 1
}

down() {
  local dir
  for dir in "$DIR"/h*/; do
    [ -d "$dir" ] || continue
    if runs "${dir}init.pid"; then kill -KILL "$(cat "${dir}init.pid")"; fi
    for _ in $(seq 100); do runs "${dir}outer.pid" || break; sleep 0.1; done
    ip netns del "$PREFIX$(basename "$dir")" 2>/dev/null || true
  done
  ip link del "$UPLINK" 2>/dev/null || true
  ip netns del "$SWITCH" 2>/dev/null || true
  find /sys/fs/cgroup -depth -type d \( -path "*/$PREFIX" -o -path "*/$PREFIX/*" \) -exec rmdir {} + 2>/dev/null || true
  rm -rf --one-file-system "$DIR"
}

case $VERB in
  up)
    mkdir -p "$DIR"
    chmod 700 "$DIR"
    ssh-keygen -q -t ed25519 -N '' -C test -f "$DIR/id_ed25519"
    setsid bash "$(readlink -f "$0")" "$DIR" "$PREFIX" "$NET" guard "$2" >/dev/null 2>&1 </dev/null &
    switch_up
    for host in $(seq "$1"); do boot "$host"; done
    for host in $(seq "$1"); do ready "$host"; done ;;
  guard)
    while [ -d "$DIR" ] && kill -0 "$1" 2>/dev/null; do sleep 1; done
    if [ -d "$DIR" ]; then down; fi ;;
  init) init "$1" ;;
  down) down ;;
  cut) ip -n "$SWITCH" link set "p$1" down ;;
  heal) ip -n "$SWITCH" link set "p$1" up ;;
  hide) ip -n "${PREFIX}h$1" route add blackhole "$NET.1/32" ;;
  show) ip -n "${PREFIX}h$1" route del blackhole "$NET.1/32" ;;
  in) in_host "$@" ;;
  sshd)
    case $2 in
      # The connections too, not only the listener.
      stop) in_host "$1" bash -c 'kill -KILL $(pidof sshd); rm -f /run/sshd.pid' ;;
      start) touch "$DIR/h$1/start-sshd"; ready "$1" ;;
      drop) in_host "$1" bash -c 'pkill -KILL -P "$(cat /run/sshd.pid)"' ;;
    esac ;;
  dockerd)
    case $2 in
      stop) in_host "$1" bash -c 'kill -KILL $(pidof dockerd); rm -f /run/docker.sock'; rm -f "$DIR/h$1/docker.sock" ;;
      start) touch "$DIR/h$1/start-dockerd"; ready "$1" ;;
    esac ;;
  freeze) in_host "$1" bash -c 'kill -STOP $(pidof dockerd containerd)' ;;
  thaw) in_host "$1" bash -c 'kill -CONT $(pidof dockerd containerd)' ;;
  wipe)
    # Containers are what lives in other mounts than the host's own, and what watches over them.
    in_host "$1" bash -c '
      kill -KILL $(pidof dockerd containerd)
      for process in /proc/[0-9]*; do
        id=${process#/proc/}
        case $(cat "$process/comm" 2>/dev/null) in containerd-shim*) kill -KILL "$id" ;; esac
        mounts=$(readlink "$process/ns/mnt" 2>/dev/null) || continue
        [ "$mounts" = "$(readlink /proc/1/ns/mnt)" ] || kill -KILL "$id"
      done 2>/dev/null
      awk -v dir="$1/docker/" "index(\$2, dir) == 1 || index(\$2, \"/run/docker/\") == 1 { print \$2 }" /proc/mounts |
        sort -r | xargs -r umount -l
      rm -rf /run/docker /run/docker.sock /run/docker.pid' wipe "$DIR/h$1"
    rm -rf --one-file-system "$DIR/h$1/docker" "$DIR/h$1/docker.sock"
    mkdir -p "$DIR/h$1/docker"
    touch "$DIR/h$1/start-dockerd"
    ready "$1" ;;
  *) sed -n '2,18p' "$0"; exit 2 ;;
esac
