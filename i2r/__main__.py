from i2r.errors import as_sentences

with as_sentences():  # Ctrl-C during the imports, too
    from i2r.cli import main

    main()
