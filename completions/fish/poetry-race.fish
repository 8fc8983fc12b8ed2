complete -c poetry-race -l runs -d 'Rounds, in each of which every client runs once' -r -f
complete -c poetry-race -l warm-up -d 'Runs of get-poetry before, which do not count' -r -f
complete -c poetry-race -l models -d 'Only these models: blocking, threads, select, async' -r -f
complete -c poetry-race -s j -l max-concurrency -d 'Let each client fetch at most N poems at once [default: all]' -r -f
complete -c poetry-race -l timeout -d 'Give up a poem that is not complete after so long; 0: never' -r -f
complete -c poetry-race -l timeline -d 'Draw what each poem was doing when, of the median run of each model, as a picture in FILE (SVG)' -r -F
complete -c poetry-race -l assert -d 'Exit with 1 unless this holds, as in \'async <= 1.1 * bound\'; may be given more than once' -r -f
complete -c poetry-race -l json -d 'Print the result as JSON'
complete -c poetry-race -l csv -d 'Print the result as CSV'
complete -c poetry-race -l markdown -d 'Print the result as a Markdown table'
complete -c poetry-race -l waterfall -d 'Draw the same on stderr, in characters'
complete -c poetry-race -s h -l help -d 'Print help (see more with \'--help\')'
complete -c poetry-race -s V -l version -d 'Print version'
