complete -c transformedpoetry -l max-length -d 'Refuse requests of more than so many bytes, name and poem together' -r -f
complete -c transformedpoetry -l idle-timeout -d 'Let go of a client that says nothing for so long; 0: never' -r -f
complete -c transformedpoetry -l port -d 'Port to listen on; 0 is any free one' -r -f
complete -c transformedpoetry -l iface -d 'Interface to listen on: a name or an IP address' -r -f
complete -c transformedpoetry -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096]' -r -f
complete -c transformedpoetry -l max-clients -d 'Serve at most N clients at once; more wait in the listen queue' -r -f
complete -c transformedpoetry -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r -f
complete -c transformedpoetry -l grace -d 'When asked to stop, give who is being served so long to finish' -r -f
complete -c transformedpoetry -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c transformedpoetry -l list -d 'List the transforms, and exit'
complete -c transformedpoetry -l keep-alive -d 'Answer any number of requests on a connection, in order, instead of one'
complete -c transformedpoetry -s v -l verbose -d 'Say more (-vv: still more)'
complete -c transformedpoetry -s q -l quiet -d 'Say only what went wrong'
complete -c transformedpoetry -s h -l help -d 'Print help (see more with \'--help\')'
complete -c transformedpoetry -s V -l version -d 'Print version'
