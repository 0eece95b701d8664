"""What every room of the house needs and no room owns, as in M3's own ``src/x``.

Imports nothing of the project. One module per subject; open the one you need:

``protobuf``    message tables, the plain codec, compiled readers and writers
``kernels``     compiled memory primitives that all hot loops are made of
``byte_table``  byte strings → numbers without an object for each; ``table_kernels`` is the compiled table, for whoever owns the arrays,
               ``ordered_kernels`` a look-up of keys that come in the order in which they were added
``checksum``    zlib's crc32 of much at once; ``checksum_kernels`` its compiled part
``shared_memory``  memory of one process that others map and read
``segments``    an append-only log on disk: segments, checksums, recovery, sync policies, cursors
``reserve``     large arrays whose memory is committed by touching it
``config``      YAML files → typed structs, every problem reported with file, line and path
``sections``    the sections of those files that every service has; ``pools`` those for Go's object pools
``endpoints``   where services listen and are reached: TCP, or a socket in the file system
``web``         an HTTP server in a service's own event loop, and the metrics page; ``web_protocol`` what it does with a connection, and the
               way past the application
``pages``       pages for people: frame, flow, charts, shards by instance, the last hour
``access``      bearer tokens of HTTP calls, and the section that names them
``gate``        whether a connection has to speak TLS, plain text, or either
``pace``        whose turn it is where only so many of something may begin in a second
``instrument``  counters and gauges with M3's names, exposed for Prometheus
``also``        figures under further names
``runtime_figures``  what is known of a process and its children
``output``      what commands print
``log``         structured log lines, rate-limited where input from the network causes them
``processes``   child processes forked from one that has loaded everything, kept alive, and their private directory
``keyed_hash``  a hash of 128 bits under a secret, for tables that keep it instead of the key
``private``     directories for the user alone
``process``     parent death, command line, open files, CPU and memory of a process
``kernel_cache``  where compiled kernels are kept; ``warming`` compiles them
``memory``      how much of it a service may have
``live_config``  a configuration that is read again while the service runs
``diagnosis``   looking into a process that runs: stacks, profiles, state
``service_manager``  what systemd is told
``retry``       M3's backoff rule
``tls``         contexts from PEM files, which are loaded again when they change
``secure_socket``  a TLS connection for loops that read and write sockets themselves
``reloading``   what is made of files, and made again when they change
``clock``       wall and boot-time clocks in nanoseconds
``beats``       when loops look around that have no time of their own for it
``golang``      values as Go writes, reads and rounds them
``version``     of the distribution
"""
