"""The warden: a root shell in the container that ends what a command has left running.

It is started before the agent's first command and forks nothing, so it works when the agent has
used up all processes. The agent can neither signal nor trace it.
"""

from __future__ import annotations

import time

from aem_gym.envs.swe.sandbox.base import Ran, SandboxError
from aem_gym.envs.swe.sandbox.shell import Shell, ShellOver

READY = "/run/ready"
"""Written by the container's first command when the repository is in place, or why it is not."""

_PATIENCE = 40
"""Seconds until what does not end makes the sandbox useless."""

# `status` and not the owner of /proc/PID tells whose a process is: one that may not be traced
# seems to be root's. What is stopped cannot fork, and fills the places of what could.
_SCRIPT = f"""
set +m
# Nothing ever comes out of it: reading from it is a sleep without a fork.
mkfifo /run/never && exec {{never}}<>/run/never && rm /run/never
own=" 1 $$ "
examine() {{
    local key value rest
    state= uid=
    while read -r key value rest; do
        case $key in State:) state=$value ;; Uid:) uid=$value; break ;; esac
    done < "$1/status"
}} 2>/dev/null
pass() {{ # SIGNAL SPARED ROOT: how many were signalled
    local place pid
    count=0
    for place in /proc/[0-9]*; do
        pid=${{place#/proc/}}
        [[ $own == *" $pid "* || $pid == "$2" ]] && continue
        examine "$place"
        [[ -z $state || $state == [ZX] ]] && continue
        [[ $uid == 0 && -z $3 ]] && continue
        [[ $1 == STOP && $state == T ]] && continue
        kill -"$1" "$pid" 2>/dev/null && ((count++))
    done
    return 0
}}
sweep() {{ # SPARED ROOT
    local turn
    for turn in 1 2 3; do pass KILL "$1" "$2"; ((count == 0)) && return 0; done
    local until=$((SECONDS + {_PATIENCE}))
    while ((SECONDS < until)); do
        for turn in {{1..50}}; do pass STOP "$1" "$2"; ((count == 0)) && break; done
        for turn in {{1..10}}; do
            pass KILL "$1" "$2"; ((count == 0)) && return 0
            read -t 0.02 -u "$never" # what held gigabytes takes its time to go
        done
    done
    return 1
}}
while [[ ! -e {READY} ]]; do sleep 0.01; done
for place in /proc/[0-9]*; do own="$own${{place#/proc/}} "; done # the container's own
printf '%s' "$(< {READY})"
"""


class Warden:
    """A handle on the warden of one container.

    Args:
        shell: a bash as root.
        timeout: seconds until the container's own first command has to be through.

    Raises:
        SandboxError: the repository is not in place.
    """

    def __init__(self, shell: Shell, timeout: float = 120.0) -> None:
        self._shell = shell
        told = self._ask(_SCRIPT, timeout).output.strip()
        if told != "ready":
            raise SandboxError(
                f"the repository could not be put in its place: {told[-300:] or 'no answer'}. "
                "Is it larger than Limits.disk_mb? Or build the image anew: "
                "python -m aem_gym.envs.swe.images"
            )

    def sweep(self, spared: int = 0) -> None:
        """End all processes that are not root's, but one.

        Raises:
            SandboxError: they cannot be ended; the container has to go.
        """
        self._end(f"sweep {spared} ''")

    def clear(self) -> None:
        """End everything but the container's own processes, root's programs included."""
        self._end("sweep 0 root")

    def close(self) -> None:
        """Let go of it."""
        self._shell.close()

    def _end(self, command: str) -> None:
        if self._ask(command, 60.0).exit_code != 0:
            raise SandboxError("what a command left running cannot be ended")

    def _ask(self, command: str, timeout: float) -> Ran:
        began = time.monotonic()
        try:
            return self._shell.run(command, timeout, 10_000)
        except ShellOver as error:
            seconds = time.monotonic() - began
            raise SandboxError(
                f"the sandbox does not answer ({seconds:.1f} s; {error.ran.output[-200:]!r}): its "
                "container is gone, or the engine is"
            ) from error
