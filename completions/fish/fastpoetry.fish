complete -c fastpoetry -l delay -d 'Trickle: time from one piece to the next [default: 0, or 100ms with --num-bytes]' -r
complete -c fastpoetry -l num-bytes -d 'Trickle: bytes in a piece [default: all, or 10 with --delay]' -r
complete -c fastpoetry -l port -d 'Port to listen on; 0 is any free one' -r
complete -c fastpoetry -l iface -d 'Interface to listen on: a name or an IP address' -r
complete -c fastpoetry -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096; slowpoetry: 128]' -r
complete -c fastpoetry -l max-clients -d 'Serve at most N clients at once; more wait in the listen queue' -r
complete -c fastpoetry -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r
complete -c fastpoetry -l grace -d 'When asked to stop, give who is being served so long to finish' -r
complete -c fastpoetry -l log-format -d 'Form of the messages' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c fastpoetry -s v -l verbose -d 'Say more (-vv: still more)'
complete -c fastpoetry -s q -l quiet -d 'Say only what went wrong'
complete -c fastpoetry -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fastpoetry -s V -l version -d 'Print version'
