"""Looking into a process that runs, without stopping it.

``stacks``    where all threads and tasks of this process are, and all threads of its children
``sampling``  where they spend their time
``routes``    both over HTTP, with the state of the service and the level of its log

Open ``routes`` first. Nothing is imported here: children that are forked need ``stacks`` alone. Imports ``m3x`` only.
"""
