def check(runner, report, peer): pass
