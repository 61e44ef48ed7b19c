"""A local AWS: unmodified boto3, and we, reach it by `AWS_ENDPOINT_URL`; it runs deployed zips as Lambda does.

                      one loopback port (gateway)
    client ── http(s) ──► SigV4, token, clock ──┬─ s3 ──► s3_proxy: counts, faults ──┐
                            (sigv4, refusals,   ├─ iam, sts, cloudformation,         ├──► ministack, a process on a
                             permissions)       │  logs, lambda's control plane ─────┘    private loopback port
                                                ├─ Invoke ──► invoke: limits, faults, queue of events
                                                │               └─► pool: warm ones again, ramp, memory, disk
                                                │                     └─► environment ◄─ Runtime API ─► awslambdaric
                                                ├─ /_local/…  control: knobs, counters, keys
                                                └─ /_proxy/…  the S3 proxy's own control

**What is as on AWS.** Signatures, session tokens and clocks are verified, for every service in its own error format.
The zip runs as it was deployed: unpacked read-only, under a bare interpreter of the function's Python that has AWS's
runtime client and nothing else, with the template's variables and Lambda's own. Handler, time-out, memory and
ephemeral disk come from the function's configuration; 6 MB and 1 MB payloads, account and reserved concurrency, the
ramp, 1,024 descriptors are refused as Lambda refuses them. Environments are free only when their runtime asks for the
next event, and are used again, the most recent first. Events are queued, and tried again as the function's event
invoke configuration says.

Policies of users, roles and buckets, and boundaries, are evaluated for each request (permissions.py): the keys of an
environment may do what its function's role may. Counters say what was `denied`, `allowed` to others than root, and
`asked` of the control plane, each with its action.

**What is not.** TMPDIR is the environment's own folder, and /tmp is the machine's. An environment that passes its
ephemeral disk is ended with Runtime.ExitError, where AWS lets the write fail. Memory and disk are looked at ten times
a second, so a short peak passes. A key may be minted that is denied named actions, besides what policies say; what
CloudFormation does for a caller is not held against the caller's policies. Layers are found by PYTHONPATH.
There are at most `real_environments` processes; an Invoke beyond them waits. Pauses between tries of an event are
seconds, not minutes. Events that are given up are counted and go nowhere. A template may set AWS_REGION and the like,
which AWS refuses; Lambda's own win. A runtime without an interpreter here is a 502.

**Knobs** (control.py, faults.py): faults `throttle error kill duplicate drop stall reset_before reset_after`, each a
fraction, or an object {fraction, times, seconds, function, delay}; settings `cold_start account_concurrency ramp
ramp_seconds real_environments idle_seconds init_seconds retry_delay throttle_delay secure seed needle`. Each fault
counts what it injected, and `/_local/state` has counters of everything else: `seen in <service>` of the requests in
which the text `needle` stood, or in what an Invoke brought back, as it is or in base64.
"""
