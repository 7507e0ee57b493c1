from i2r.cli import main

main()
