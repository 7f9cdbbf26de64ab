//! The help.

/// What `bdsync`, `bdsync --help` and `bdsync -H` print.
pub(crate) const USAGE: &str = "\
USAGE:

  Client:
    bdsync [OPTIONS] REMSHCMD LOCDEV REMDEV > PATCH
  Server:
    bdsync --server [--verbose]
  Patch:
    bdsync --patch[=DEVICE] [OPTIONS] < PATCH

The client starts REMSHCMD (for example 'ssh host bdsync --server'), compares
LOCDEV here with REMDEV there, and writes what differs to standard output.

OPTIONS:

-s, --server              Answer a client on standard input and output.
-p, --patch[=DEVICE]      Apply the patch on standard input to DEVICE
                          (default: the device that the patch names).
-w, --warndev             With --patch: warn if the patch names another device.
-v, --verbose             Say more: on standard error, a server to syslog.
-h, --hash=DIGEST         Digest that compares blocks (default md5).
-b, --blocksize=BYTES     Size of the blocks that are compared (default 4096).
-c, --checksum=DIGEST     Put a digest of the whole source into the patch.
-t, --twopass             Compare large blocks first, then small ones in those
                          that differ.
-r, --remdata             Write the remote blocks into the patch: LOCDEV is then
                          the device to be patched.
-d, --diffsize[=OPTION[,warn]]
                          Allow different sizes. OPTION: strict (refuse; the
                          default without this option), minsize (up to the
                          smaller size), resize (everything; the default with it).
-z, --zeroblocks          Accepted; blocks of zeros are always recognised.
-f, --fixedsalt           Use a salt of zeros. For tests only.
-F, --flushcache          Give back the page cache of what was read, at both ends.
    --progress[=noscroll] Report progress on standard error.
-H, --help                Show this.

Further than the stock command:

    --threads=N           Hash on N threads (also: BDSYNC_THREADS; default: one
                          a processor, at most 16).
    --io=WAY              How devices are read: mapped (default for files),
                          positional (default for block devices), or direct
                          (past the page cache).
    --read-holes          Read also what the file system says is a hole.
    --idle                Let everything else go first: idle I/O class, nice 19.
    --sparse              With --patch: zeros give their space back.
    --verify              With --patch: compare the patch's checksum with the
                          device afterwards. Needs the --blocksize and --twopass
                          that made the patch.
    --version             Show the versions of program, protocol and patch format.

EXIT STATUS:

  0 success               5 checksum error        10 digest error
  1 invalid parameters    6 read error            11 transmission error
  2 invalid patch         7 no random bytes       12 I/O error
  3 sizes differ          8 process error         13 connection error
  4 protocol error        9 write error
";
