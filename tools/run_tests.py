#!/usr/bin/env python3
import subprocess, sys
sys.exit(max((subprocess.run([p]).returncode for p in sys.argv[1:]), default=0))
