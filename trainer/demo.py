def run_demo(options, device):
    pass
