#!/usr/bin/env bash
# Talks to each version and compares its replies. Usage: check.sh [PORT]
set -euo pipefail
cd "$(dirname "$0")"
port=${1:-7390}

ask() { # version, commands, wanted replies
    ./"kvstore-v$1" "$port" &
    local server=$!
    trap 'kill $server' EXIT
    until exec 3<>"/dev/tcp/127.0.0.1/$port"; do kill -0 $server; done 2>/dev/null
    printf '%b' "$2" >&3
    local got="" line
    for _ in $(seq "$(printf '%b' "$3" | wc -l)"); do
        read -r -t 5 line <&3
        got+="${line%$'\r'}\n"
    done
    exec 3>&-
    kill $server
    wait $server 2>/dev/null || true
    trap - EXIT
    [ "$got" = "$3" ] || { echo "version $1: got $got instead of $3"; exit 1; }
    echo "version $1: ok"
}

ask 1 'PUT a x y\r\nGET a\r\nPUT-number a 1\r\nTYPE a\r\nGET b\r\n' 'OK\nx y\nERR unknown command\nERR unknown command\nNONE\n'
ask 2 'PUT a x\r\nTYPE a\r\nPUT-number n 12\r\nTYPE n\r\nPUT-number n x\r\nPUT-date d 2024-01-02\r\nTYPE d\r\n' 'OK\nstring\nOK\nnumber\nERR not a number\nOK\ndate\n'
ask 3 'PUT a x\r\nPUT-string a x\r\nGET a\r\n' 'ERR unknown command\nOK\nx\n'
ask 3 'COUNT\r\nPUT-string a x\r\nPUT-string b x\r\nPUT-string a y\r\nCOUNT\r\n' '0\nOK\nOK\nOK\n2\n'
ask 1 'bad-cmd' 'ERR unknown command\n'
