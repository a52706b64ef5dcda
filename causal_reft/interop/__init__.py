"""What other libraries save, as graphs, and graphs in their formats."""

from causal_reft.interop.pyreft import load_pyreft as load_pyreft
from causal_reft.interop.pyreft import save_pyreft as save_pyreft
