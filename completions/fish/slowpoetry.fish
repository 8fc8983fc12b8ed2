complete -c slowpoetry -l delay -d 'Time from one piece to the next [default: 100ms]' -r -f
complete -c slowpoetry -l num-bytes -d 'Bytes in a piece [default: 10; with --rate 25 pieces a second]' -r -f
complete -c slowpoetry -l rate -d 'Bytes a second, instead of a delay' -r -f
complete -c slowpoetry -l jitter -d 'Make each delay shorter or longer by chance, by so much at most' -r -f
complete -c slowpoetry -l first-byte-delay -d 'Accept, and then be silent for so long' -r -f
complete -c slowpoetry -l cut-at -d 'End early: after so many bytes (100, 64KiB), or so long after accept (3s, 1m)' -r -f
complete -c slowpoetry -l cut -d 'How it ends then: like a whole poem, with a reset, or in silence for ever [default: rst]' -r -f -a "fin\t'As if the poem were complete'
rst\t'With a reset'
hang\t'By silence for ever'"
complete -c slowpoetry -l seed -d 'Fix the draws of the jitter: the same seed, the same schedules [default: by chance, and logged]' -r -f
complete -c slowpoetry -l fail-first -d 'Reset the first N connections at once' -r -f
complete -c slowpoetry -l script -d 'What happens to connection 1, 2, 3, ... and to all others, as a TOML file has it' -r -F
complete -c slowpoetry -l record -d 'Write down what is really sent to whom and when, a line of JSON for each event' -r -F
complete -c slowpoetry -l replay -d 'Treat each connection as it was once recorded, and begin again after the last' -r -F
complete -c slowpoetry -l rehearse -d 'Print what the first N connections would get, as a recording, and exit' -r -f
complete -c slowpoetry -l port -d 'Port to listen on; 0 is any free one' -r -f
complete -c slowpoetry -l iface -d 'Interface to listen on: a name or an IP address' -r -f
complete -c slowpoetry -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 128]' -r -f
complete -c slowpoetry -l clients -d 'Exit after so many clients' -r -f
complete -c slowpoetry -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r -f
complete -c slowpoetry -l grace -d 'When asked to stop, give who is being served so long to finish' -r -f
complete -c slowpoetry -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c slowpoetry -l never-accept -d 'Listen with the shortest queue, and accept nobody: further connects time out'
complete -c slowpoetry -s v -l verbose -d 'Say more (-vv: still more)'
complete -c slowpoetry -s q -l quiet -d 'Say only what went wrong'
complete -c slowpoetry -s h -l help -d 'Print help (see more with \'--help\')'
complete -c slowpoetry -s V -l version -d 'Print version'
