# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_poetryd_global_optspecs
    string join \n config= check daemon pid-file= log-file= log-size= log-keep= user= group= metrics= v/verbose q/quiet log-format= h/help V/version
end

function __fish_poetryd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_poetryd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_poetryd_using_subcommand
    set -l cmd (__fish_poetryd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c poetryd -n "__fish_poetryd_needs_command" -l config -d 'Start the services described in a TOML file' -r -F
complete -c poetryd -n "__fish_poetryd_needs_command" -l pid-file -d 'Write the number of the process into FILE, and lock it' -r -F
complete -c poetryd -n "__fish_poetryd_needs_command" -l log-file -d 'Write messages into FILE instead of stderr' -r -F
complete -c poetryd -n "__fish_poetryd_needs_command" -l log-size -d 'Begin a new log file before this one gets longer; 0: never [default: 10MiB]' -r -f
complete -c poetryd -n "__fish_poetryd_needs_command" -l log-keep -d 'Keep so many older log files [default: 5]' -r -f
complete -c poetryd -n "__fish_poetryd_needs_command" -l user -d 'Be this user, by name or number, when every socket listens; for root only' -r -f
complete -c poetryd -n "__fish_poetryd_needs_command" -l group -d 'And this group [default: the user\'s own]' -r -f
complete -c poetryd -n "__fish_poetryd_needs_command" -l metrics -d 'Serve metrics on this address: PORT (on this machine), HOST:PORT or [IPv6]:PORT' -r -f
complete -c poetryd -n "__fish_poetryd_needs_command" -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c poetryd -n "__fish_poetryd_needs_command" -l check -d 'Only check the words, the file, and the poems and scripts that are named there, and exit'
complete -c poetryd -n "__fish_poetryd_needs_command" -l daemon -d 'Go on in the background when every socket listens'
complete -c poetryd -n "__fish_poetryd_needs_command" -s v -l verbose -d 'Say more (-vv: still more)'
complete -c poetryd -n "__fish_poetryd_needs_command" -s q -l quiet -d 'Say only what went wrong'
complete -c poetryd -n "__fish_poetryd_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c poetryd -n "__fish_poetryd_needs_command" -s V -l version -d 'Print version'
complete -c poetryd -n "__fish_poetryd_needs_command" -f -a "fastpoetry" -d 'Give out a poem to any number of clients at once: an async server'
complete -c poetryd -n "__fish_poetryd_needs_command" -f -a "transformedpoetry" -d 'Change poems: an async server that takes a poem and gives it back in lower case, upside down, or numbered'
complete -c poetryd -n "__fish_poetryd_needs_command" -f -a "poetry-proxy" -d 'Serve another server\'s poem from memory: an async caching proxy'
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l delay -d 'Time from one piece to the next [default: 0, or 100ms with --num-bytes]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l num-bytes -d 'Bytes in a piece [default: all, or 10 with --delay; with --rate 25 pieces a second]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l rate -d 'Bytes a second, instead of a delay' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l jitter -d 'Make each delay shorter or longer by chance, by so much at most' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l first-byte-delay -d 'Accept, and then be silent for so long' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l cut-at -d 'End early: after so many bytes (100, 64KiB), or so long after accept (3s, 1m)' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l cut -d 'How it ends then: like a whole poem, with a reset, or in silence for ever [default: rst]' -r -f -a "fin\t'As if the poem were complete'
rst\t'With a reset'
hang\t'By silence for ever'"
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l seed -d 'Fix the draws of the jitter: the same seed, the same schedules [default: by chance, and logged]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l fail-first -d 'Reset the first N connections at once' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l script -d 'What happens to connection 1, 2, 3, ... and to all others, as a TOML file has it' -r -F
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l record -d 'Write down what is really sent to whom and when, a line of JSON for each event' -r -F
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l replay -d 'Treat each connection as it was once recorded, and begin again after the last' -r -F
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l rehearse -d 'Print what the first N connections would get, as a recording, and exit' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l port -d 'Port to listen on; 0 is any free one' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l iface -d 'Interface to listen on: a name or an IP address' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l max-clients -d 'Serve at most N clients at once; more wait in the listen queue' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l grace -d 'When asked to stop, give who is being served so long to finish' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -l never-accept -d 'Listen with the shortest queue, and accept nobody: further connects time out'
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -s v -l verbose -d 'Say more (-vv: still more)'
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -s q -l quiet -d 'Say only what went wrong'
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c poetryd -n "__fish_poetryd_using_subcommand fastpoetry" -s V -l version -d 'Print version'
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l max-length -d 'Refuse requests of more than so many bytes, name and poem together' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l idle-timeout -d 'Let go of a client that says nothing for so long; 0: never' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l port -d 'Port to listen on; 0 is any free one' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l iface -d 'Interface to listen on: a name or an IP address' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l max-clients -d 'Serve at most N clients at once; more wait in the listen queue' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l grace -d 'When asked to stop, give who is being served so long to finish' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l list -d 'List the transforms, and exit'
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -l keep-alive -d 'Answer any number of requests on a connection, in order, instead of one'
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -s v -l verbose -d 'Say more (-vv: still more)'
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -s q -l quiet -d 'Say only what went wrong'
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c poetryd -n "__fish_poetryd_using_subcommand transformedpoetry" -s V -l version -d 'Print version'
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l ttl -d 'Fetch the poem again when it is so old [default: never]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l stale-while-revalidate -d 'Serve an aged poem for so long while it is fetched again in the background' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l max-size -d 'Keep no poem that is longer; it passes through' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l upstream-timeout -d 'Give up an upstream that does not accept the connection, or sends nothing, for so long; 0: never' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l port -d 'Port to listen on; 0 is any free one' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l iface -d 'Interface to listen on: a name or an IP address' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l backlog -d 'Length of the queue of connections that wait to be accepted [default: 4096]' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l max-clients -d 'Serve at most N clients at once; more wait in the listen queue' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l write-timeout -d 'Drop a client that takes nothing for so long; 0: never' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l grace -d 'When asked to stop, give who is being served so long to finish' -r -f
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l log-format -d 'Form of the messages [default: text]' -r -f -a "text\t'One line for people'
json\t'One JSON object a line, with fields'"
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l stale-if-error -d 'Serve an aged poem, however old, if it cannot be fetched again'
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -l keep-filling -d 'Go on with a fetch when its last client has left'
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -s v -l verbose -d 'Say more (-vv: still more)'
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -s q -l quiet -d 'Say only what went wrong'
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c poetryd -n "__fish_poetryd_using_subcommand poetry-proxy" -s V -l version -d 'Print version'
