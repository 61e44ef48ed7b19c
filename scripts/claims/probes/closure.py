"""Map a closure over worker processes, as a user's script would: no `__main__` guard."""

import os

import pywren_ng

offset = 7
parent = os.getpid()

with pywren_ng.Executor() as executor:
    results = list(executor.map(lambda n: (n + offset, os.getpid() != parent), range(20)))

print("from", os.path.dirname(pywren_ng.__file__))
right = sum(value == n + 7 and elsewhere for n, (value, elsewhere) in enumerate(results))
print(f"{right} of 20 right, in workers")
