complete -c poetry-proxy -l ttl -d 'Fetch the poem again when it is so old [default: never]' -r -f
complete -c poetry-proxy -l stale-while-revalidate -d 'Serve an aged poem for so long while it is fetched again in the background' -r -f
complete -c poetry-proxy -l max-size -d 'Keep no poem that is longer; it passes through' -r -f
complete -c poetry-proxy -l upstream-timeout -d 'Give up an upstream that does not accept the connection, or sends nothing, for so long; 0: never' -r -f
complete -c poetry-proxy -l port -d 'Port to listen on; 0 is any free one' -r -f
complete -c poetry-proxy -l iface -d 'Interface to listen on: a name or an IP address' -r -f
complete -c poetry-proxy -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096]' -r -f
complete -c poetry-proxy -l max-clients -d 'Serve at most N clients at once; more wait in the listen queue' -r -f
complete -c poetry-proxy -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r -f
complete -c poetry-proxy -l grace -d 'When asked to stop, give who is being served so long to finish' -r -f
complete -c poetry-proxy -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c poetry-proxy -l stale-if-error -d 'Serve an aged poem, however old, if it cannot be fetched again'
complete -c poetry-proxy -l keep-filling -d 'Go on with a fetch when its last client has left'
complete -c poetry-proxy -s v -l verbose -d 'Say more (-vv: still more)'
complete -c poetry-proxy -s q -l quiet -d 'Say only what went wrong'
complete -c poetry-proxy -s h -l help -d 'Print help (see more with \'--help\')'
complete -c poetry-proxy -s V -l version -d 'Print version'
