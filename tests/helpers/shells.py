"""Driving real shells: what each of them puts in place of the word that it is asked to complete."""

import os
import pty
import re
import select
import subprocess
import time

# Pressed behind a line: all completions are put in; the line is shown, and gone.
ALL, SHOW = b"\x1b*", b"\x07"

BASH = """
set -u
bind 'set enable-bracketed-paste off'
bind -x '"\\C-g": printf "<<%s>>\\n" "$READLINE_LINE"; READLINE_LINE='
"""
ZSH = """
autoload -U compinit && compinit -D -u
insert_all() { _main_complete; compstate[insert]=all }
zle -C insert-all complete-word insert_all
show() { print -r -- "<<$BUFFER>>"; BUFFER= }
zle -N show
bindkey '^[*' insert-all
bindkey '^G' show
unsetopt prompt_cr
unset zle_bracketed_paste
"""


class Interactive:
    """A shell at a terminal."""

    def __init__(self, argv, setup, cwd, env):
        self.ours, theirs = pty.openpty()
        env = {**env, "TERM": "dumb", "PS1": "", "PROMPT": "", "HISTFILE": "", "COLUMNS": "400"}
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=env, start_new_session=True
        )
        os.close(theirs)
        self.send(setup.encode() + b"echo re''ady\n")
        self.read(r"ready\r?\n")

    def send(self, data):
        while data:
            data = data[os.write(self.ours, data) :]

    def read(self, pattern):
        """What comes until the pattern does: its match."""
        text, until = "", time.monotonic() + 20
        while time.monotonic() < until:
            if select.select([self.ours], [], [], 0.5)[0]:
                text += os.read(self.ours, 65536).decode(errors="replace")
                if found := re.search(pattern, text):
                    return found
        raise TimeoutError(text)

    def complete(self, line):
        """The line with all of the last word's completions in place of that."""
        self.send(line.encode() + ALL + SHOW)
        found = self.read(r"<<(.*?)>>")
        return re.sub(r"\r|\x1b\[[0-9;?]*[a-zA-Z]", "", found.group(1))

    def close(self):
        os.close(self.ours)
        self.process.kill()
        self.process.wait(timeout=10)


def bash(scripts, cwd, env):
    """bash with these completions."""
    setup = BASH + "".join(f"source {script}\n" for script in scripts)
    return Interactive(["bash", "--norc", "--noprofile", "-i"], setup, cwd, env)


def zsh(scripts, cwd, env):
    """zsh with these completions."""
    setup = ZSH + "".join(f"source {script}\n" for script in scripts)
    return Interactive(["zsh", "-f", "-i"], setup, cwd, env)


def fish(scripts, line, cwd, env):
    """What fish offers, without what it says of it."""
    setup = "".join(f"source {script}; " for script in scripts)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{setup}complete -C {line!r}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        check=True,
    )
    if done.stderr:
        raise AssertionError(done.stderr)
    return [row.split("\t")[0] for row in done.stdout.splitlines()]
