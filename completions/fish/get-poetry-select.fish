complete -c get-poetry-select -s o -l output -d 'Write each poem into a file in DIR instead of to stdout' -r -F
complete -c get-poetry-select -l transform -d 'Send each poem through this transform; if that fails, keep it as it was' -r -f
complete -c get-poetry-select -l via -d 'The transform server' -r -f
complete -c get-poetry-select -l report -d 'Write the report as JSON to FILE' -r -F
complete -c get-poetry-select -l timeline -d 'Draw what each poem was doing when, as a picture in FILE (SVG)' -r -F
complete -c get-poetry-select -s j -l max-concurrency -d 'Fetch at most N poems at once [default: all]' -r -f
complete -c get-poetry-select -l connect-timeout -d 'Give up an address that does not accept the connection for so long; 0: never' -r -f
complete -c get-poetry-select -l idle-timeout -d 'Give up a poem of which nothing comes for so long, the first byte included; 0: never' -r -f
complete -c get-poetry-select -l timeout -d 'Give up a poem that is not complete after so long, all attempts included; 0: never' -r -f
complete -c get-poetry-select -l retries -d 'Try again up to N times if a poem fails, after pauses that double' -r -f
complete -c get-poetry-select -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c get-poetry-select -l ordered -d 'Write poems in the order of the command line, the first unfinished one live'
complete -c get-poetry-select -l discard -d 'Write poems nowhere, only measure'
complete -c get-poetry-select -l json -d 'Write the report as JSON to stdout instead of the poems'
complete -c get-poetry-select -l waterfall -d 'Draw the same on stderr, in characters'
complete -c get-poetry-select -s v -l verbose -d 'Say more (-vv: still more)'
complete -c get-poetry-select -s q -l quiet -d 'Say only what went wrong'
complete -c get-poetry-select -s h -l help -d 'Print help (see more with \'--help\')'
complete -c get-poetry-select -s V -l version -d 'Print version'
