#!/bin/sh
# Signs requests and checks replies with nothing but sh and openssl. The secret stands in no argument list.
#
#   printf '{"v":1,"op":"claim",…}' | examples/signed.sh sign KEY_FILE | redis-cli -x RPUSH broker:in:claims
#   redis-cli --raw LPOP broker:reply:mac-1:x | examples/signed.sh open KEY_FILE broker:reply:mac-1:x
#
# KEY_FILE is what `broker key new --factory mac-1 --out KEY_FILE` wrote. A signed request needs a `deadline_ms` that is at
# most 15 minutes away. `open` prints the reply, or nothing and exit status 1 where it was not signed for this channel.
set -eu
case ${1-}:$# in
sign:2 | open:3) ;;
*)
    echo "usage: $0 sign KEY_FILE < REQUEST, or $0 open KEY_FILE REPLY_CHANNEL < REPLY" >&2
    exit 2
    ;;
esac
read -r id secret < "$2"

pad() { # The 32 bytes of the secret and 32 zeros, each XORed with $1.
    rest=$secret at=0
    while [ "$at" -lt 64 ]; do
        pair=${rest%"${rest#??}"}
        byte=$((0x${pair:-0} ^ $1))
        printf "\\$((byte / 64))$((byte / 8 % 8))$((byte % 8))"
        rest=${rest#"$pair"} at=$((at + 1))
    done
}

mac() { # HMAC-SHA256 (RFC 2104) of a text for a purpose, in hex.
    { pad 92; { pad 54; printf 'claim-broker %s\n%s' "$1" "$2"; } | openssl dgst -sha256 -binary; } |
        openssl dgst -sha256 -r | cut -c 1-64
}

message=$(cat)
case $1 in
sign) printf 's1 %s %s %s' "$id" "$(mac request "$message")" "$message" ;;
open)
    text=${message#s1 "$id" * }
    [ "$message" = "s1 $id $(mac "$3" "$text") $text" ] || exit 1
    printf '%s\n' "$text"
    ;;
esac
