# shellcheck shell=bash
# Completion of @NAME@ for bash. What may come, the program itself is asked.
_@NAME@() {
    local line=${COMP_LINE:0:COMP_POINT} words=() found=() word="" value="" kind="" stem="" cut="" breaks="" i
    # What readline parts (at = and :) is one word to the program.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        if [[ $i -eq 0 || $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            words+=("")
        fi
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$line
        words[-1]+=$word
        line=${line#"$word"}
    done
    {
        IFS= read -r kind
        IFS= read -r stem
        mapfile -t found
    } < <("@ASK@" generate words -- "${words[@]}" 2>/dev/null)
    COMPREPLY=()
    case $kind in
        file) compopt -o default ;;
        folder) compopt -o dirnames ;;
    esac
    # readline puts a word in place of what follows the last of those.
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+="="
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=":"
    word=${words[-1]}
    [[ -n $breaks && $word == *["$breaks"]* ]] && cut=${word%"${word##*["$breaks"]}"}
    for value in "${found[@]}"; do
        value=$stem${value%%$'\t'*}
        COMPREPLY+=("${value#"$cut"}")
        [[ $value == *= ]] && compopt -o nospace
    done
    return 0
}
complete -F _@NAME@ @NAME@
