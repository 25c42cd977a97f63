# Functions that lay an image out, run as root in the container that it is made in.
# AGENT, HOME_FOLDER, WORKDIR, PRISTINE are set before; KEEP_BUILD keeps the repository's build/.

find_tools() { # in an image of others
    missing=""
    for tool in bash git tar find patch python3 mv; do
        command -v "$tool" > /dev/null || missing="$missing $tool"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get > /dev/null; then
        echo "the image lacks$missing, and apt-get to install it: build one on it that has them"
        return 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends bash coreutils findutils git patch python3 tar
}

adopt() { # the repository of an image of others that lies elsewhere
    [ -d "$1" ] || { echo "the image has no folder $1, where its repository should be"; return 1; }
    rm -rf "$WORKDIR"
    mv "$1" "$WORKDIR"
    ln -s "$WORKDIR" "$1"
}

add_agent() { # whoever had its name or number before is gone
    for file in passwd group; do
        sed -i -e '/^agent:/d' -e "/^[^:]*:[^:]*:$AGENT:/d" "/etc/$file"
    done
    echo "agent:x:$AGENT:$AGENT:agent:$HOME_FOLDER:/bin/bash" >> /etc/passwd
    echo "agent:x:$AGENT:" >> /etc/group
    mkdir -p "$HOME_FOLDER" "$WORKDIR"
    chown "$AGENT:$AGENT" "$HOME_FOLDER"
}

# What ran as root may have left compiled copies of the source, which show it before the bug was
# put in. Site-packages are compiled instead: where nothing can be written, every import would do
# it again.
tidy_repository() {
    find "$WORKDIR" -name __pycache__ -prune -exec rm -rf {} +
    [ -n "$KEEP_BUILD" ] || rm -rf "$WORKDIR/build"
    for site in /usr/local/lib/python3*/site-packages; do
        [ ! -d "$site" ] || python -m compileall -q "$site" > /dev/null || true
    done
}

settle() { # the repository goes where only root can look; nothing else of the build stays
    private=$(dirname "$PRISTINE")
    chown -R "$AGENT:$AGENT" "$WORKDIR"
    if [ ! -e "$PRISTINE" ] || [ -n "$(ls -A "$WORKDIR")" ]; then
        rm -rf "$private"
        mkdir -p "$private"
        mv "$WORKDIR" "$PRISTINE"
        mkdir "$WORKDIR"
    fi
    chown 0:0 "$private"
    chmod 700 "$private"
    chown "$AGENT:$AGENT" "$WORKDIR"
    find /tmp /var/tmp "$HOME_FOLDER" -mindepth 1 -delete
}
