# Completion of @NAME@ for fish. What may come, the program itself is asked.
function __@NAME@_next
    set -l words (commandline -opc)
    set -l token (commandline -ct)
    set -l lines (command @ASK@ generate words -- $words "$token" 2>/dev/null)
    set -l stem "$lines[2]"
    set -l rest (string sub -s (math (string length -- "$stem") + 1) -- "$token")
    switch "$lines[1]"
        case file
            for path in (__fish_complete_path "$rest")
                echo -- $stem$path
            end
        case folder
            for path in (__fish_complete_directories "$rest" '')
                echo -- $stem$path
            end
        case words
            if test (count $lines) -gt 2
                for line in $lines[3..-1]
                    echo -- $stem$line
                end
            end
    end
end
complete -c @NAME@ -f -k -a '(__@NAME@_next)'
