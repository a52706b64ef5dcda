"""What other libraries saved, read into graphs of ours."""

from causal_reft.interop.pyreft import load_pyreft as load_pyreft
