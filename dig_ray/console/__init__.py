"""Where people stand: what job scripts share, lines for a terminal, jobs on a cluster, costs on paper. Nothing imports it but scripts."""
