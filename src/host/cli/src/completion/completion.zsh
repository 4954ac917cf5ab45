#compdef @NAME@
# Completion of @NAME@ for zsh. What may come, the program itself is asked.
_@NAME@() {
    local -a lines closed open
    local line value about item done=1
    lines=("${(@f)$("@ASK@" generate words -- "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    [[ -n $lines[2] ]] && compset -P "${(b)lines[2]}"
    case $lines[1] in
        file) _files && done=0 ;;
        folder) _files -/ && done=0 ;;
        words)
            for line in "${(@)lines[3,-1]}"; do
                value=${line%%$'\t'*}
                about=${line#*$'\t'}
                item=${value//:/\\:}${about:+:$about}
                # A key is nothing without its value, which follows at once.
                if [[ $value == *= ]]; then
                    open+=("$item")
                else
                    closed+=("$item")
                fi
            done
            (( $#closed )) && _describe -t words word closed && done=0
            (( $#open )) && _describe -t keys key open -S '' && done=0
            ;;
    esac
    return done
}
# Loaded by its name it is called at once; read by source it is told of.
if [[ $funcstack[1] == _@NAME@ ]]; then
    _@NAME@ "$@"
else
    compdef _@NAME@ @NAME@
fi
