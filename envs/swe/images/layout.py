"""The scripts that lay an image out: run as root in the container that it is made in."""

from __future__ import annotations

from pathlib import PurePosixPath

from aem_gym.envs.swe.sandbox.base import AGENT, HOME, PRISTINE, WORKDIR

_PRIVATE = PurePosixPath(PRISTINE).parent.as_posix()

# What ran as root may have left compiled copies of the source, which show it before a slip.
# Site-packages are compiled instead: where nothing can be written, every import would do it anew.
FINISH = f"""
find {WORKDIR} -name __pycache__ -prune -exec rm -rf {{}} +
[ -n "$KEEP_BUILD" ] || rm -rf {WORKDIR}/build
for site in /usr/local/lib/python3*/site-packages; do
    [ ! -d "$site" ] || python -m compileall -q "$site" > /dev/null || true
done
"""
SETTLE = f"""
chown -R {AGENT}:{AGENT} {WORKDIR}
if [ ! -e {PRISTINE} ] || [ -n "$(ls -A {WORKDIR})" ]; then
    rm -rf {_PRIVATE}
    mkdir -p {_PRIVATE}
    mv {WORKDIR} {PRISTINE}
    mkdir {WORKDIR}
fi
chown 0:0 {_PRIVATE}
chmod 700 {_PRIVATE}
chown {AGENT}:{AGENT} {WORKDIR}
find /tmp /var/tmp {HOME} -mindepth 1 -delete
"""
USER = f"""
for file in passwd group; do
    sed -i -e '/^agent:/d' -e '/^[^:]*:[^:]*:{AGENT}:/d' "/etc/$file"
done
echo 'agent:x:{AGENT}:{AGENT}:agent:{HOME}:/bin/bash' >> /etc/passwd
echo 'agent:x:{AGENT}:' >> /etc/group
mkdir -p {HOME} {WORKDIR}
chown {AGENT}:{AGENT} {HOME}
"""
TOOLS = """
missing=""
for tool in bash git tar find patch python3 mv; do
    command -v "$tool" > /dev/null || missing="$missing $tool"
done
[ -n "$missing" ] || exit 0
if command -v apt-get > /dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends bash coreutils findutils git patch python3 tar
else
    echo "the image lacks$missing, and apt-get to install it: build one on it that has them"
    exit 1
fi
"""
