#!/bin/sh
# Makes a Debian-like image, with a Python or without, the base of sandboxes: run as root, with
# network, beside requirements.txt. Afterwards `python` is /usr/local/bin/python whatever it came
# from, so that no login shell or empty environment finds another one.
#
# AEM_PYTHON: the interpreter to use; else /usr/local/bin/python3, else Debian's own. One that was
# brought along lies in /opt/python; in `spare` there are the shared libraries it was seen to load.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

python=${AEM_PYTHON:-}
needs=""
if [ -z "$python" ] && [ ! -x /usr/local/bin/python3 ]; then
    python=/usr/bin/python3
    needs="python3 python3-venv"
fi
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends \
    bash ca-certificates findutils git make patch procps tar $needs

# Of the libraries that came along, those that the image has not.
if [ -d /opt/python/spare ]; then
    for file in /opt/python/spare/*; do
        name=${file##*/}
        ldconfig -p | grep -qF "	$name (" || mv "$file" /opt/python/lib/
    done
    rm -rf /opt/python/spare
    echo /opt/python/lib > /etc/ld.so.conf.d/zz-python.conf
    ldconfig
fi

# A virtual environment whose prefix is /usr/local: packages land where a Python of python.org's
# images has them, and Debian's own are left alone.
[ -z "$python" ] || "$python" -m venv /usr/local
/usr/local/bin/python3 -m pip install --quiet --no-cache-dir --upgrade -r "$here/requirements.txt"
[ -e /usr/local/bin/python ] || ln -s python3 /usr/local/bin/python
python -c "import ssl, sqlite3, lzma, bz2, zlib, ctypes, curses, readline, pytest" # all of it

# The agent; whoever had its name or number before is gone.
for file in passwd group; do
    sed -i -e '/^agent:/d' -e '/^[^:]*:[^:]*:1000:/d' "/etc/$file"
done
sed -i '/^agent:/d' /etc/shadow
echo 'agent:x:1000:1000:agent:/home/agent:/bin/bash' >> /etc/passwd
echo 'agent:x:1000:' >> /etc/group
echo 'agent:*:1::::::' >> /etc/shadow
mkdir -p /home/agent /testbed
chown 1000:1000 /home/agent /testbed

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
    /usr/share/doc/* /usr/share/man/*/* /usr/share/locale/* /root/.cache
