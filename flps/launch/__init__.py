"""From a command to roles that run, and to the code that says how it went.

arguments.py  what the user asks `flrun` for: command line and environment
kind.py       which flags belong to which kind of job
kinds.py      what differs between the kinds: how a job is read, laid out, made ready and summed up
hosts.py      hosts and ports: which are this machine, who holds one that is taken
plan.py       who runs where, and which roles start here
federation.py the plan of a federation; parties.py: of a split job
resume.py     which checkpoint a federation goes on from, and whether it may; resume_parties.py: a split job
prepare.py    what must exist first: the run's folder, sockets and keys, the default data; prepare_parties.py: files
              and rows of a split job
spawn.py      roles as processes, forked from one parent
threads.py    the same as threads of this process
child.py      a process becomes its role: log, signals, the one place that catches everything
role.py       the role itself, played to its end
signals.py    Ctrl-C and its kin
supervise.py  starts roles, waits for what happens, stops what is left
watch.py      what events mean, and the exit code
board.py      what the events add up to
live.py       what the user sees of it
logs.py       log files, the links to the newest run, roles.json
"""
