"""Ready stories: comparisons that ship with the demo, each made by one command from one recipe.

    python -m vlmdefense_demo stories                 all of them
    python -m vlmdefense_demo stories --only one-step

Data flows one way: a recipe (`recipes`) is run (`make`) into a folder of PNGs and cards.json
(`export`), from which every sentence and every question of a lecture is derived (`facts`, `slides`,
`lessons`).
"""
