# Read by a root shell in a container before the agent's first command: kills what commands leave
# running. Nothing here forks, so it works when the agent has used up all processes.
# READY: a file that is written when the repository is in place, or why it is not.
#
# `status` and not the owner of /proc/PID says whose a process is: one that may not be traced seems
# to be root's. What is stopped cannot fork, and fills the places of what could.
set +m
patience=40 # seconds until what does not end makes the sandbox useless
# Nothing ever comes out of it: reading from it is a sleep without a fork.
mkfifo /run/never && exec {never}<>/run/never && rm /run/never
own=" 1 $$ "
examine() {
    local key value rest
    state= uid=
    while read -r key value rest; do
        case $key in State:) state=$value ;; Uid:) uid=$value; break ;; esac
    done < "$1/status"
} 2>/dev/null
pass() { # SIGNAL SPARED ROOT: how many were signalled
    local place pid
    count=0
    for place in /proc/[0-9]*; do
        pid=${place#/proc/}
        [[ $own == *" $pid "* || $pid == "$2" ]] && continue
        examine "$place"
        [[ -z $state || $state == [ZX] ]] && continue
        [[ $uid == 0 && -z $3 ]] && continue
        [[ $1 == STOP && $state == T ]] && continue
        kill -"$1" "$pid" 2>/dev/null && ((count++))
    done
    return 0
}
kill_processes() { # SPARED ROOT: of the agent; of root as well if ROOT is not empty
    local turn
    for turn in 1 2 3; do pass KILL "$1" "$2"; ((count == 0)) && return 0; done
    local until=$((SECONDS + patience))
    while ((SECONDS < until)); do
        for turn in {1..50}; do pass STOP "$1" "$2"; ((count == 0)) && break; done
        for turn in {1..10}; do
            pass KILL "$1" "$2"; ((count == 0)) && return 0
            read -t 0.02 -u "$never" # what held gigabytes takes its time to go
        done
    done
    return 1
}
while [[ ! -e $READY ]]; do sleep 0.01; done
for place in /proc/[0-9]*; do own="$own${place#/proc/} "; done # the container's own
printf '%s' "$(< "$READY")"
