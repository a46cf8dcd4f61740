import os
import subprocess
import sys


def test_a_closed_pipe_ends_quietly() -> None:
    code = """if 1:
        import sys
        from softfeat.pipes import end_of_output
        print("a line")
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            end_of_output()
    """
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
