complete -c slowpoetry -l delay -d 'Time from one piece to the next' -r
complete -c slowpoetry -l num-bytes -d 'Bytes in a piece' -r
complete -c slowpoetry -l port -d 'Port to listen on; 0 is any free one' -r
complete -c slowpoetry -l iface -d 'Interface to listen on: a name or an IP address' -r
complete -c slowpoetry -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096; slowpoetry: 128]' -r
complete -c slowpoetry -l clients -d 'Exit after so many clients' -r
complete -c slowpoetry -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r
complete -c slowpoetry -l grace -d 'When asked to stop, give who is being served so long to finish' -r
complete -c slowpoetry -l log-format -d 'Form of the messages' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c slowpoetry -s v -l verbose -d 'Say more (-vv: still more)'
complete -c slowpoetry -s q -l quiet -d 'Say only what went wrong'
complete -c slowpoetry -s h -l help -d 'Print help (see more with \'--help\')'
complete -c slowpoetry -s V -l version -d 'Print version'
