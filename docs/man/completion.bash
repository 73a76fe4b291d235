# Completion of @NAME@ for bash. Made by docs/man from its table of commands.

# COMMAND: its line of the table; without COMMAND: all lines
_@FN@_table() {
    local line
    while IFS= read -r line; do
        [[ $# -gt 0 && ${line%%;*} != "$1" ]] || echo "$line"
    done <<'TABLE'
@TABLE@
TABLE
}

# WORDS...: the versions in the store that the words of the command line name
_@FN@_versions() {
    local program=$1
    local -a store=()
    # A program that is called by its path has the other one beside it.
    case $program in
    */*) program=${program%/*}/ota-apply ;;
    *) program=ota-apply ;;
    esac
    while [ $# -gt 1 ]; do
        case $1 in --root | --config) store+=("$1" "$2") ;; esac
        shift
    done
    # A store that does not answer at once completes nothing.
    timeout 2 "$program" list ${store[@]+"${store[@]}"} 2>/dev/null | while read -r version _; do echo "$version"; done
}

_@FN@() {
    local cur=${COMP_WORDS[COMP_CWORD]} command='' takes='' want='' flags='' word flag name args more
    local -a words=() found=()
    COMPREPLY=()
    # --root=DIR comes as three words.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
        [ "$word" = = ] || words+=("$word")
    done
    [ "$cur" != = ] || cur=''
    while IFS=';' read -r _ _ more; do flags+=" $more"; done < <(_@FN@_table)
    for word in "${words[@]:1}"; do
        if [ -n "$takes" ]; then
            takes=''
        elif [[ $word == -* ]]; then
            [[ $flags != *" $word="* ]] || takes=$word
        elif [ -z "$command" ] || [ -n "$(_@FN@_table "$command $word")" ]; then
            command=${command:+$command }$word
        fi
    done
    IFS=';' read -r name args more < <(_@FN@_table "$command") || true
    if [ -n "$takes" ]; then
        for flag in ${name:+$more} $flags; do
            if [ "${flag%%=*}" = "$takes" ]; then
                want=${flag#*=}
                break
            fi
        done
    elif [ -z "$command" ]; then
        want='--help --version'
        while IFS=';' read -r name _; do want+=" ${name%% *}"; done < <(_@FN@_table)
    elif [[ $cur == -* ]]; then
        for flag in $more; do want+=" ${flag%%=*}"; done
    else
        want=$args
        while IFS=';' read -r name _; do
            [[ $name != "$command "* ]] || want+=" ${name#* }"
        done < <(_@FN@_table)
    fi
    want=${want//[][|.]/ }
    for word in $(printf '%s\n' $want | sort -u); do
        case $word in
        VERSION) mapfile -t found < <(compgen -W "$(_@FN@_versions "${words[@]}")" -- "$cur") ;;
        DIR) mapfile -t found < <(compgen -d -- "$cur") ;;
        F | FILE | KEY | PUB | NAME) mapfile -t found < <(compgen -f -- "$cur") ;;
        *[A-Z]* | ota | key) found=() ;;
        *) mapfile -t found < <(compgen -W "$word" -- "$cur") ;;
        esac
        COMPREPLY+=(${found[@]+"${found[@]}"})
        case $word in DIR | F*) compopt -o filenames 2>/dev/null ;; esac
    done
}

complete -F _@FN@ @NAME@
